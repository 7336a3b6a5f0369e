#include "cli/progress.h"

#include <unistd.h>

#include <system_error>

#include "cli/console.h"

namespace nibblecast {
namespace {

using std::chrono::milliseconds;

constexpr auto kTerminalInterval = milliseconds(100);  // between two updates of the line
constexpr auto kTerminalRefresh = milliseconds(1000);  // without any
constexpr auto kPlainInterval = milliseconds(10'000);
constexpr auto kStageInterval = milliseconds(1000);  // between lines of two stages
constexpr auto kFirst = milliseconds(2000);          // before the first plain line

}  // namespace

ProgressPrinter::ProgressPrinter(bool quiet)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()), shown_(start_) {
  if (quiet_) return;
  try {
    thread_ = std::thread([this] { show_in_time(); });
  } catch (const std::system_error&) {
    // update() prints all the same.
  }
}

ProgressPrinter::~ProgressPrinter() { end(); }

void ProgressPrinter::end() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ended_.notify_all();
  thread_.join();
}

void ProgressPrinter::say(const std::string& title) {
  const std::lock_guard lock(mutex_);
  line_ = {.title = title, .detail = ""};
}

void ProgressPrinter::begin(const ProbedRates& probed) {
  const std::lock_guard lock(mutex_);
  start_ = Clock::now();
  probed_ = probed;
}

void ProgressPrinter::update(const Progress& progress) {
  if (quiet_) return;
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  WorkLog work = progress.work;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (work.all_seconds() == 0 && progress.bytes > 0) {
    work.done[0].read_bytes = static_cast<double>(progress.bytes_done);
    work.left[0].read_bytes = static_cast<double>(progress.bytes - progress.bytes_done);
    work.seconds[0] = seconds;
  }
  line_ = {.title = progress.title.empty() ? progress.stage : progress.title,
           .detail = progress.detail,
           .seconds = seconds,
           .seconds_left = seconds_left(work, probed_),
           .bytes_done = progress.bytes_done,
           .bytes = progress.bytes};
  const auto since = now - shown_;
  const bool stage_began = line_.title != shown_title_;
  const bool due = terminal_ ? since >= kTerminalInterval
                             : since >= kPlainInterval || (stage_began && since >= kStageInterval);
  if (due || !shown_any_) show(now);
}

void ProgressPrinter::update(const std::string& stage, uint64_t bytes_done, uint64_t bytes) {
  update({.stage = stage, .title = "", .detail = "", .bytes_done = bytes_done, .bytes = bytes, .work = {}});
}

void ProgressPrinter::show(Clock::time_point now) {
  shown_ = now;
  shown_any_ = true;
  shown_title_ = line_.title;
  const std::time_t time = std::time(nullptr);
  if (terminal_)
    print_status(progress_text(line_, time, terminal_columns()));
  else
    print_line(progress_text(line_, time, 0));
}

void ProgressPrinter::show_in_time() {
  std::unique_lock lock(mutex_);
  while (!end_) {
    const auto interval = terminal_ ? kTerminalRefresh : shown_any_ ? kPlainInterval : kFirst;
    const Clock::time_point due = shown_ + interval;
    if (ended_.wait_until(lock, due, [this] { return end_; })) return;
    const Clock::time_point now = Clock::now();
    if (line_.title.empty())
      shown_ = now;
    else if (now >= shown_ + interval)
      show(now);
  }
}

std::function<void(const Progress&)> progress_to(ProgressPrinter& printer, const InterruptWatch& watch) {
  return [&printer, &watch](const Progress& progress) {
    watch.check();
    printer.update(progress);
  };
}

}  // namespace nibblecast
