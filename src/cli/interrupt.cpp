#include "cli/interrupt.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "base/error.h"
#include "cli/console.h"

namespace nibblecast {
namespace {

constexpr int kGraceMilliseconds = 1500;

std::atomic<int> noted_signal = 0;
std::atomic<int> wake_fd = -1;

// May touch nothing but atomics and the pipe.
void note_signal(int signal) {
  noted_signal = signal;
  const char byte = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd, &byte, 1);
}

Error interrupted(const std::string& hint) {
  const int signal = noted_signal;
  return Error(ErrorKind::kInterrupted, {},
               signal == SIGINT ? "interrupted" : "stopped by signal " + std::to_string(signal),
               {.hint = hint});
}

}  // namespace

InterruptWatch::InterruptWatch(std::string hint) : hint_(std::move(hint)) {
  noted_signal = 0;
  if (::pipe(wake_) != 0) throw Error(ErrorKind::kIo, {}, "the system has no pipe left");
  wake_fd = wake_[1];
  deadline_ = std::thread([this] { end_in_time(); });
  struct sigaction action = {};
  action.sa_handler = note_signal;
  // Restart: a read under way must not fail for it. Reset: the second signal does what signals do.
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

InterruptWatch::~InterruptWatch() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = ::write(wake_[1], &byte, 1);
  deadline_.join();
  wake_fd = -1;
  ::close(wake_[0]);
  ::close(wake_[1]);
}

void InterruptWatch::check() const {
  if (noted_signal != 0) throw interrupted(hint_);
}

void InterruptWatch::end_in_time() {
  char byte = 0;
  while (::read(wake_[0], &byte, 1) != 1) {
  }
  if (byte == 0) return;
  pollfd over = {.fd = wake_[0], .events = POLLIN, .revents = 0};
  if (::poll(&over, 1, kGraceMilliseconds) != 0) return;
  const Error error = interrupted(hint_);
  print_error(error.what());
  std::_Exit(static_cast<int>(error.kind()));
}

}  // namespace nibblecast
