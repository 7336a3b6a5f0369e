// cli/progress.h - how far a long job is, on stderr: on a terminal one line rewritten in place, elsewhere a
// plain line when a stage begins and every 10 seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nibblecast {

class ProgressPrinter {
 public:
  // `quiet`: prints nothing.
  explicit ProgressPrinter(bool quiet);
  ~ProgressPrinter();  // leaves the terminal on a fresh line
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  // Not thread-safe. `bytes` 0: unknown.
  void update(const std::string& stage, uint64_t bytes_done, uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(const std::string& stage, uint64_t bytes_done, uint64_t bytes) const;

  bool quiet_, terminal_;
  bool line_open_ = false;
  Clock::time_point start_, last_;
  std::string last_stage_;
};

}  // namespace nibblecast
