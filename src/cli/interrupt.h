// cli/interrupt.h - Ctrl-C and SIGTERM end a long job in order: the error says what is left and what to do.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace nibblecast {

// While it lives, the first SIGINT or SIGTERM is noted, for check() to find; a second one ends the process at
// once. Where check() is not reached within 1.5 seconds (a layer's attention over many rows), the process
// ends then, with the same message and exit code: what is on disk can be resumed at any moment.
class InterruptWatch {
 public:
  // `hint`: what the user can do afterwards.
  explicit InterruptWatch(std::string hint);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  // Throws kInterrupted if a signal was noted.
  void check() const;

 private:
  void end_in_time();

  const std::string hint_;
  int wake_[2] = {-1, -1};  // a pipe: the handler writes the signal, the destructor 0
  std::thread deadline_;
};

// While it lives, a process that ends at the deadline calls `note` with the reason before, and waits for it
// for a moment. One at a time.
class DeadlineNote {
 public:
  explicit DeadlineNote(std::function<void(const std::string& reason)> note);
  ~DeadlineNote();
  DeadlineNote(const DeadlineNote&) = delete;
  DeadlineNote& operator=(const DeadlineNote&) = delete;
};

}  // namespace nibblecast
