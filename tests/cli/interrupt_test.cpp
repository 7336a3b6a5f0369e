#include "cli/interrupt.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <csignal>

#include "testing.h"

namespace nibblecast {
namespace {

TEST(InterruptWatch, NotesTheFirstSignal) {
  const InterruptWatch watch("run it again");
  EXPECT_NO_THROW(watch.check());
  std::raise(SIGTERM);
  testing::expect_error(
      ErrorKind::kInterrupted, [&] { watch.check(); }, "signal 15", "run it again");
}

// Matchers, not regular expressions: with those GoogleTest calls regcomp(), which Oniguruma has another of.
TEST(InterruptWatch, TheSecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        const InterruptWatch watch("");
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), ::testing::IsEmpty());
}

TEST(InterruptWatch, WorkThatDoesNotLookEndsWithTheSameMessage) {
  EXPECT_EXIT(
      {
        const InterruptWatch watch("run it again");
        std::raise(SIGINT);
        while (true) ::pause();
      },
      ::testing::ExitedWithCode(9), ::testing::HasSubstr("interrupted; run it again"));
}

}  // namespace
}  // namespace nibblecast
