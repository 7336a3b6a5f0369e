// base/parallel.h - the two things nibblecast asks of oneTBB.
//
// Tasks must not depend on how many threads run them: each writes its own part of the output and no
// reduction crosses tasks. An exception in a task reaches the caller; the other tasks are cancelled.
#pragma once

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>

#include <cstddef>

namespace nibblecast {

// Calls f(0) ... f(count - 1), in any order and on any thread. May be nested.
template <class F>
void parallel_for(size_t count, const F& f) {
  tbb::parallel_for(size_t{0}, count, f);
}

// Bounds the threads of every parallel_for while it lives.
class ThreadLimit {
 public:
  explicit ThreadLimit(size_t threads) : control_(tbb::global_control::max_allowed_parallelism, threads) {}

 private:
  tbb::global_control control_;
};

}  // namespace nibblecast
