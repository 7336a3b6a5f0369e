// cli/progress.h - how far a long job is, on stderr: on a terminal one line rewritten in place, elsewhere a
// plain line when a stage begins (at most one a second) and every 10 seconds, whatever the job waits for.
// With NIBBLECAST_PROGRESS=json in the environment: every second a line for programs (progress_json()).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "cli/interrupt.h"
#include "cli/progress_line.h"
#include "pipeline/run.h"
#include "plan/time_left.h"

namespace nibblecast {

enum class ProgressForm { kTerminal, kLines, kJson };

class ProgressPrinter {
 public:
  // `quiet`: prints nothing. A printer that cannot have a thread prints when it is called. Error kUsage where
  // NIBBLECAST_PROGRESS is another word.
  explicit ProgressPrinter(bool quiet);
  ~ProgressPrinter();
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  // Something of unknown length begins: "reading the calibration texts". Shown if it lasts.
  void say(const std::string& title);
  // Nothing is printed from here on; the destructor does this too.
  void end();
  // The job begins: time counts from here. `probed`: what is known of the machine.
  void begin(const ProbedRates& probed = {});
  void update(const Progress& progress);
  // Of bytes alone. `bytes` 0: unknown.
  void update(const std::string& stage, uint64_t bytes_done, uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  void show(Clock::time_point now);  // mutex_ is held
  void show_in_time();               // the thread

  const bool quiet_;
  const ProgressForm form_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;
  ProgressLine line_;
  ProbedRates probed_;
  Clock::time_point start_;
  Clock::time_point shown_;  // when something last was
  bool shown_any_ = false;
  std::string shown_title_;
  std::thread thread_;
};

// For RunOptions and the like: prints, and looks for signals. Both must outlive it.
std::function<void(const Progress&)> progress_to(ProgressPrinter& printer, const InterruptWatch& watch);

}  // namespace nibblecast
