// base/cuda_owners.h - keeps host memory alive while a device copies from it. Only in builds with CUDA.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "base/cuda.h"

namespace nibblecast {

class CudaOwners {
 public:
  using Owner = std::shared_ptr<const void>;

  // `most`: owners that are kept at once.
  explicit CudaOwners(size_t most) : most_(most) {}
  ~CudaOwners();

  // After copies on `stream` from the owner's bytes. Without an owner, or room, waits for copies.
  void add(CudaStreamHandle stream, const Owner& owner);

 private:
  struct Held {
    CudaEvent copied;
    Owner owner;
  };
  CudaEvent take_event();
  void release();

  const size_t most_;
  std::deque<Held> held_;
  std::vector<CudaEvent> idle_;
};

}  // namespace nibblecast
