// cli/progress.h - how far a long job is, on stderr: on a terminal one line rewritten in place, elsewhere a
// plain line when a stage begins and every 10 seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "cli/interrupt.h"
#include "pipeline/run.h"

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

// For RunOptions and the like: prints, and looks for signals. Both must outlive it.
std::function<void(const Progress&)> progress_to(ProgressPrinter& printer, const InterruptWatch& watch);

}  // namespace nibblecast
