// cli/interrupt.h - Ctrl-C and SIGTERM end a long job in order: the error says what is left and what to do.
#pragma once

#include <string>

namespace nibblecast {

// While it lives, the first SIGINT or SIGTERM is noted; a second one ends the process at once.
class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  // Throws kInterrupted with `hint` if a signal was noted.
  static void check(const std::string& hint);
};

}  // namespace nibblecast
