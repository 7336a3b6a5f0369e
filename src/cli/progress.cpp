#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "cli/console.h"

namespace nibblecast {
namespace {

using std::chrono::milliseconds;

constexpr auto kTerminalInterval = milliseconds(100);  // between two updates of the line
constexpr auto kRefresh = milliseconds(1000);          // without any, but for plain lines
constexpr auto kPlainInterval = milliseconds(10'000);
constexpr auto kStageInterval = milliseconds(1000);  // between lines of two stages, and of JSON
constexpr auto kFirst = milliseconds(2000);          // before the first plain line

ProgressForm wanted_form() {
  const char* set = std::getenv("NIBBLECAST_PROGRESS");
  const std::string_view asked_for = set == nullptr ? "" : set;
  if (asked_for == "json") return ProgressForm::kJson;
  if (!asked_for.empty()) {
    throw Error(ErrorKind::kUsage, {}, fmt::format("NIBBLECAST_PROGRESS: unknown value '{}'", asked_for),
                {.expected = "json, or nothing"});
  }
  return isatty(STDERR_FILENO) == 1 ? ProgressForm::kTerminal : ProgressForm::kLines;
}

// Between two lines of one stage.
milliseconds interval_of(ProgressForm form) {
  return form == ProgressForm::kTerminal ? kTerminalInterval
         : form == ProgressForm::kJson   ? kStageInterval
                                         : kPlainInterval;
}

}  // namespace

ProgressPrinter::ProgressPrinter(bool quiet)
    : quiet_(quiet),
      form_(quiet ? ProgressForm::kLines : wanted_form()),
      start_(Clock::now()),
      shown_(start_) {
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
  const bool due = since >= interval_of(form_) || (stage_began && since >= kStageInterval);
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
  if (form_ == ProgressForm::kTerminal)
    print_status(progress_text(line_, time, terminal_columns()));
  else
    print_line(form_ == ProgressForm::kJson ? progress_json(line_) : progress_text(line_, time, 0));
}

void ProgressPrinter::show_in_time() {
  std::unique_lock lock(mutex_);
  while (!end_) {
    const auto interval = form_ != ProgressForm::kLines ? kRefresh : shown_any_ ? kPlainInterval : kFirst;
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
