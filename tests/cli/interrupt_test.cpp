#include "cli/interrupt.h"

#include <csignal>

#include "testing.h"

namespace nibblecast {
namespace {

TEST(InterruptWatch, NotesTheFirstSignal) {
  const InterruptWatch watch;
  InterruptWatch::check("");
  std::raise(SIGTERM);
  testing::expect_error(
      ErrorKind::kInterrupted, [] { InterruptWatch::check("run it again"); }, "signal 15", "run it again");
}

TEST(InterruptWatch, TheSecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        const InterruptWatch watch;
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace nibblecast
