#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "base/file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

TEST(FileLock, HasOneHolderWhoseTextIsInTheFile) {
  TemporaryFolder folder;
  const auto path = folder.path() / "lock";
  auto first = system_files().try_lock(path, "process 1 on a");
  ASSERT_TRUE(first);
  EXPECT_EQ(read_text(system_files(), path, 100), "process 1 on a");
  EXPECT_FALSE(system_files().try_lock(path, "process 2 on b"));
  EXPECT_EQ(read_text(system_files(), path, 100), "process 1 on a");
  first.reset();
  EXPECT_TRUE(system_files().try_lock(path, "other"));
  EXPECT_EQ(read_text(system_files(), path, 100), "other");
}

TEST(FileLock, DiesWithItsProcess) {
  TemporaryFolder folder;
  const auto path = folder.path() / "lock";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto lock = system_files().try_lock(path, "child");
    if (write(ready[1], lock ? "y" : "n", 1) == 1) pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_FALSE(system_files().try_lock(path, "parent"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(system_files().try_lock(path, "parent"));
  close(ready[0]);
  close(ready[1]);
}

TEST(FileLock, OfARemovedFileIsNoLock) {
  TemporaryFolder folder;
  const auto path = folder.path() / "lock";
  const auto old = system_files().try_lock(path, "old");
  system_files().remove(path);
  const auto fresh = system_files().try_lock(path, "fresh");
  EXPECT_TRUE(fresh);
  EXPECT_FALSE(system_files().try_lock(path, "third"));
  EXPECT_EQ(read_text(system_files(), path, 100), "fresh");
}

TEST(FileLock, ErrorsNameThePath) {
  expect_error(
      ErrorKind::kIo, [] { system_files().try_lock("/no/such/lock", "x"); }, "/no/such/lock", "cannot lock",
      "No such file");
}

}  // namespace
}  // namespace nibblecast
