// base/cuda_clock.h - how long a device was busy with something, by its own clock. Only in builds with CUDA.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/cuda.h"

namespace nibblecast {

class CudaClock {
 public:
  // What f() puts on `stream` is timed, from the moment it begins there.
  template <class F>
  void time(CudaStreamHandle stream, const F& f) {
    if (used_ == spans_.size()) spans_.emplace_back(CudaEvent::Timing::kOn, CudaEvent::Timing::kOn);
    auto& [begin, end] = spans_[used_++];
    begin.record(stream);
    f();
    end.record(stream);
  }

  // Adds up what was timed since the last call; it must be done.
  double take_seconds() {
    double seconds = 0;
    for (size_t i = 0; i < used_; ++i) seconds += spans_[i].second.seconds_since(spans_[i].first);
    used_ = 0;
    return seconds;
  }

 private:
  std::vector<std::pair<CudaEvent, CudaEvent>> spans_;  // kept from one use to the next
  size_t used_ = 0;
};

}  // namespace nibblecast
