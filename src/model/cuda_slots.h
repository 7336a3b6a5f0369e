// model/cuda_slots.h - MLPs that stream by, on their way through a CUDA device. Only in builds with
// CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "base/cuda.h"
#include "model/stored.h"

namespace nibblecast {

// An MLP is sent to a slot of device memory as it is stored, and computed when that needs no waiting: until
// then as many wait as there are slots. They are computed in the order in which they are sent.
class CudaSlots {
 public:
  // send(to, from, size in bytes) puts a copy on the stream `copying`.
  using Send = std::function<void(std::byte* to, const std::byte* from, uint64_t size_bytes)>;
  // Puts the computation on the stream `computing`; the weights lie in device memory, and `used` is
  // recorded when they are not read any more.
  using Compute = std::function<void(uint64_t mlp, const StoredExpert& weights, CudaEvent& used)>;

  CudaSlots(std::byte* memory, size_t slots, uint64_t slot_bytes, CudaStream& copying, CudaStream& computing);

  // Has some of those that wait computed: while ready(), and where there is no slot.
  void add(uint64_t mlp, const StoredExpert& stored, const Send& send, const std::function<bool()>& ready,
           const Compute& compute);
  // Has all of them computed.
  void finish(const Compute& compute);

 private:
  struct Sent {
    uint64_t mlp = 0;
    size_t slot = 0;
    StoredExpert weights = {};  // in the slot
  };
  struct Slot {
    CudaEvent copied, used;
  };

  StoredExpert send_to(std::byte* slot, const StoredExpert& stored, const Send& send) const;
  bool too_many_launched();
  void compute_next(const Compute& compute);

  std::byte* const memory_;
  const uint64_t slot_bytes_;
  CudaStream& copying_;
  CudaStream& computing_;
  std::vector<Slot> slots_;
  size_t next_slot_ = 0;
  std::deque<Sent> waiting_;
  std::deque<size_t> launched_;  // slots whose MLP may not have been computed yet
};

}  // namespace nibblecast
