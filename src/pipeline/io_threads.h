// pipeline/io_threads.h - a few threads that wait for the disk so that nobody else has to.
//
// Blocking requests from a handful of threads keep as many requests under way as a disk wants; io_uring would
// save threads that cost nothing, and is not available in many containers.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nibblecast {

// Enough requests, of a size, that NVMe and network disks stream at: 32 MiB under way.
inline constexpr size_t kIoThreads = 4;
inline constexpr uint64_t kIoRequestBytes = 8 << 20;

class IoThreads {
 public:
  // Error kRefused where the system starts no more threads.
  explicit IoThreads(size_t threads);
  // Waits for running tasks; drops those that have not begun.
  ~IoThreads();
  // Tasks begin in the order of submission. They must not throw.
  void submit(std::function<void()> task);

 private:
  void work();
  void stop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nibblecast
