// base/cuda_clock.h - how long a device was busy with something, by its own clock. Only in builds with CUDA.
#pragma once

#include <deque>
#include <utility>
#include <vector>

#include "base/cuda.h"

namespace nibblecast {

class CudaClock {
 public:
  // What f() puts on `stream` is timed, from the moment it begins there.
  template <class F>
  void time(CudaStreamHandle stream, const F& f) {
    if (idle_.empty()) idle_.emplace_back(CudaEvent::Timing::kOn, CudaEvent::Timing::kOn);
    timed_.push_back(std::move(idle_.back()));
    idle_.pop_back();
    timed_.back().first.record(stream);
    f();
    timed_.back().second.record(stream);
  }

  // Adds up what was timed and ended since the last call.
  double take_seconds() {
    double seconds = 0;
    for (; !timed_.empty() && timed_.front().second.done(); timed_.pop_front()) {
      seconds += timed_.front().second.seconds_since(timed_.front().first);
      idle_.push_back(std::move(timed_.front()));
    }
    return seconds;
  }

 private:
  using Span = std::pair<CudaEvent, CudaEvent>;
  std::deque<Span> timed_;
  std::vector<Span> idle_;
};

}  // namespace nibblecast
