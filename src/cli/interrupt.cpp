#include "cli/interrupt.h"

#include <csignal>

#include "base/error.h"

namespace nibblecast {
namespace {

volatile std::sig_atomic_t noted_signal = 0;  // written by the handler, which may touch nothing else

void note_signal(int signal) { noted_signal = signal; }

}  // namespace

InterruptWatch::InterruptWatch() {
  noted_signal = 0;
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
}

void InterruptWatch::check(const std::string& hint) {
  if (noted_signal == 0) return;
  throw Error(ErrorKind::kInterrupted, {},
              noted_signal == SIGINT ? "interrupted" : "stopped by signal " + std::to_string(noted_signal),
              {.hint = hint});
}

}  // namespace nibblecast
