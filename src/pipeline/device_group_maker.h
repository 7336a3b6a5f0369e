// pipeline/device_group_maker.h - makes the NVFP4 weights of a group on a CUDA device. Only in builds with
// CUDA.
//
// The stored bytes cross the bus, and codes, scales and losses come back; in between lie two passes, amax and
// encoding, over values that are made some rows at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/cuda.h"
#include "pipeline/group_maker.h"

namespace nibblecast {

class DeviceGroupMaker final : public Nvfp4Maker {
 public:
  // On the device in use, which must be that of the threads that call make(), one at a time. Allocates all
  // that it will need. Bytes do not depend on `values_bytes`.
  DeviceGroupMaker(const Checkpoint& source, const Plan& plan, uint64_t values_bytes = kDeviceValuesBytes);

  // Waits until it is done. Copies from and to pinned memory are several times faster.
  void make(std::span<const LinearTask> tasks, std::span<MadeLinear> made) override;

 private:
  struct Linear;

  std::vector<Linear> list_linears(std::span<const LinearTask> tasks, std::span<MadeLinear> made) const;
  void upload(const Linear& linear);
  void scan(const Linear& linear);
  void encode(const Linear& linear);
  void download(const Linear& linear);
  void check_finite(std::span<const Linear> linears) const;
  void report(const Linear& linear) const;
  // f(values, first row, rows), with the rows' values in device memory: as BF16, or as floats where that
  // would round them.
  template <class T, class F>
  void for_values_as(const Linear& linear, const F& f);
  template <class F>
  void for_values(const Linear& linear, const F& f);

  template <class T>
  T* in_group(uint64_t offset) const {
    return reinterpret_cast<T*>(group_.data() + offset);
  }
  template <class T>
  const T* in_report(uint64_t offset) const {
    return reinterpret_cast<const T*>(report_.data() + offset);
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const uint64_t values_bytes_;
  DeviceBuffer values_, group_;
  Buffer report_;  // pinned; the beginning of group_, which the host reads
  CudaStream stream_;
};

}  // namespace nibblecast
