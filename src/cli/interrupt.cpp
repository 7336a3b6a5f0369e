#include "cli/interrupt.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "base/threads.h"
#include "cli/console.h"
#include "cli/reply.h"

namespace nibblecast {
namespace {

constexpr int kGraceMilliseconds = 1500;
constexpr auto kNoteTime = std::chrono::milliseconds(300);  // a disk that hangs must not keep the process

std::atomic<int> noted_signal = 0;
std::atomic<int> wake_fd = -1;
std::mutex note_mutex;
std::function<void(const std::string&)> deadline_note;

// May touch nothing but atomics and the pipe.
void note_signal(int signal) {
  const int error = errno;  // of whatever was interrupted
  noted_signal = signal;
  const char byte = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd, &byte, 1);
  errno = error;
}

Error interrupted(const std::string& hint) {
  const int signal = noted_signal;
  return Error(ErrorKind::kInterrupted, {},
               signal == SIGINT ? "interrupted" : "stopped by signal " + std::to_string(signal),
               {.hint = hint});
}

// The process ends right after it, so what the note speaks of must stay until then: `lock` is kept.
void note_in_time(const std::string& reason, const std::lock_guard<std::mutex>&) {
  if (!deadline_note) return;
  const auto done = std::make_shared<std::promise<void>>();
  try {
    start_thread([done, reason] {
      deadline_note(reason);
      done->set_value();
    }).detach();
  } catch (const Error&) {  // the attempt will look killed, which is as true
    return;
  }
  done->get_future().wait_for(kNoteTime);
}

}  // namespace

DeadlineNote::DeadlineNote(std::function<void(const std::string&)> note) {
  const std::lock_guard lock(note_mutex);
  deadline_note = std::move(note);
}

DeadlineNote::~DeadlineNote() {
  const std::lock_guard lock(note_mutex);
  deadline_note = nullptr;
}

InterruptWatch::InterruptWatch(std::string hint) : hint_(std::move(hint)) {
  noted_signal = 0;
  if (::pipe(wake_) != 0) throw Error(ErrorKind::kIo, {}, "the system has no pipe left");
  wake_fd = wake_[1];
  try {
    deadline_ = start_thread([this] { end_in_time(); });
  } catch (const Error&) {
    ::close(wake_[0]);
    ::close(wake_[1]);
    throw;
  }
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
  ssize_t got = 0;
  do {
    got = ::read(wake_[0], &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1 || byte == 0) return;
  pollfd over = {.fd = wake_[0], .events = POLLIN, .revents = 0};
  if (::poll(&over, 1, kGraceMilliseconds) != 0) return;
  const Error error = interrupted(hint_);
  const std::lock_guard lock(note_mutex);
  note_in_time(error.what(), lock);
  print_error(error);
  finish_reply(static_cast<int>(error.kind()));
  std::_Exit(static_cast<int>(error.kind()));
}

}  // namespace nibblecast
