#include "cli/console.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "cli/reply.h"

namespace nibblecast {
namespace {

constexpr const char* kEraseLine = "\r\x1b[K";

std::mutex console;
bool status_is_open = false;  // stderr's cursor stands behind a status

// `console` is held.
void end_status(const char* how) {
  if (!status_is_open) return;
  std::fputs(how, stderr);
  std::fflush(stderr);
  status_is_open = false;
}

void write_line(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fputc('\n', stderr);
}

void write_error(std::string_view text) {
  const std::lock_guard lock(console);
  end_status("\n");
  write_line("nibblecast: error: " + std::string(text));
}

}  // namespace

bool open_standard_streams() {
  bool had_output = true;
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) >= 0 || errno != EBADF) continue;
    if (stream == STDOUT_FILENO) had_output = false;
    // The lowest number that is free: this one.
    [[maybe_unused]] const int opened = ::open("/dev/null", stream == STDIN_FILENO ? O_RDONLY : O_WRONLY);
  }
  return had_output;
}

void print_data(std::string_view text) {
  const std::lock_guard lock(console);
  end_status(kEraseLine);
  errno = 0;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written || errno == EPIPE) return;  // a closed pipe: nobody wants to know more
  throw Error(ErrorKind::kIo, {.file = "standard output"},
              std::string("cannot be written: ") + std::strerror(errno));
}

void print_line(std::string_view text) {
  const std::lock_guard lock(console);
  end_status(kEraseLine);
  write_line(text);
}

void print_status(std::string_view text) {
  const std::lock_guard lock(console);
  std::fputs(kEraseLine, stderr);
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
  status_is_open = true;
}

size_t terminal_columns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 0;
}

void print_warning(std::string_view text) {
  add_reply_warning(text);
  print_line("nibblecast: warning: " + std::string(text));
}

void print_error(const Error& error) {
  add_reply_error(error);
  write_error(error.what());
}

void print_error(ErrorKind kind, std::string_view text) { print_error(Error(kind, {}, std::string(text))); }

std::string finding_text(const Finding& finding) {
  return finding.remedy.empty() ? finding.reason : finding.reason + "; " + finding.remedy;
}

bool report_findings(std::span<const Finding> findings) {
  bool refused = false;
  for (const Finding& finding : findings) {
    if (finding.severity == Severity::kRefusal) {
      refused = true;
      print_error(Error(ErrorKind::kRefused, {}, finding.reason, {.hint = finding.remedy}));
    } else {
      add_reply_warning(finding.reason, finding.remedy);
      print_line("nibblecast: warning: " + finding_text(finding));
    }
  }
  return refused;
}

}  // namespace nibblecast
