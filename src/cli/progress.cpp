#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "cli/console.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(10);
// A rate over less than this is noise.
constexpr double kLeastSeconds = 0.2;

// A line that wraps could not be rewritten.
std::string cut_to_terminal(std::string text) {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && text.size() >= size.ws_col) {
    text.resize(size.ws_col - 1u);
  }
  return text;
}

}  // namespace

ProgressPrinter::ProgressPrinter(bool quiet)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()), last_(start_) {}

ProgressPrinter::~ProgressPrinter() {
  if (line_open_) print_line("");
}

void ProgressPrinter::update(const std::string& stage, uint64_t bytes_done, uint64_t bytes) {
  if (quiet_) return;
  const Clock::time_point now = Clock::now();
  const bool due =
      now - last_ >= (terminal_ ? Clock::duration(kTerminalInterval) : Clock::duration(kPlainInterval));
  const bool complete = terminal_ && bytes_done == bytes;
  if (stage == last_stage_ && !due && !complete) return;
  last_ = now;
  last_stage_ = stage;
  const std::string text = line(stage, bytes_done, bytes);
  if (!terminal_) {
    print_line(text);
    return;
  }
  std::fputs(("\r\x1b[K" + cut_to_terminal(text)).c_str(), stderr);
  std::fflush(stderr);
  line_open_ = true;
}

std::string ProgressPrinter::line(const std::string& stage, uint64_t bytes_done, uint64_t bytes) const {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  std::string text = fmt::format("{}: {}", stage, size_text(bytes_done));
  if (bytes > 0) {
    text += fmt::format(" of {} ({:.0f} %)", size_text(bytes),
                        100 * static_cast<double>(bytes_done) / static_cast<double>(bytes));
  }
  if (seconds < kLeastSeconds || bytes_done == 0) return text;
  const double rate = static_cast<double>(bytes_done) / seconds;
  text += ", " + rate_text(rate);
  if (bytes > bytes_done)
    text += fmt::format(", {} left", duration_text(static_cast<double>(bytes - bytes_done) / rate));
  return text;
}

std::function<void(const Progress&)> progress_to(ProgressPrinter& printer, const InterruptWatch& watch) {
  return [&printer, &watch](const Progress& progress) {
    watch.check();
    printer.update(progress.stage, progress.bytes_done, progress.bytes);
  };
}

}  // namespace nibblecast
