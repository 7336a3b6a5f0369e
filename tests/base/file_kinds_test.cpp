// Names that are no regular files: an Error that says what they are, at once.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

void expect_refused(const std::filesystem::path& path, const std::string& kind) {
  for (const Access access :
       {Access::kRead, Access::kReadDirect, Access::kCreate, Access::kCreateDirect, Access::kUpdateDirect}) {
    const bool reads = access == Access::kRead || access == Access::kReadDirect;
    expect_error(
        reads ? ErrorKind::kBadInput : ErrorKind::kIo, [&] { system_files().open(path, access); },
        path.string(), "not a regular file", kind);
  }
  TemporaryFolder folder;
  expect_error(
      ErrorKind::kBadInput, [&] { system_files().copy(path, folder.path() / "copy"); }, path.string(), kind);
  EXPECT_FALSE(system_files().status(folder.path() / "copy"));
  expect_error(
      ErrorKind::kIo, [&] { system_files().try_lock(path, "me"); }, path.string(), kind);
}

TEST(FileKinds, APipeIsRefusedWithoutWaitingForItsOtherEnd) {
  TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  expect_refused(folder.path() / "pipe", "a pipe");
  std::filesystem::create_symlink(folder.path() / "pipe", folder.path() / "link");
  expect_refused(folder.path() / "link", "a pipe");
}

TEST(FileKinds, AFolderIsRefused) {
  TemporaryFolder folder;
  expect_refused(folder.path(), "a folder");
}

TEST(FileKinds, ADeviceIsRefused) { expect_refused("/dev/null", "a device"); }

TEST(FileKinds, ASocketIsRefused) {
  TemporaryFolder folder;
  const std::string path = (folder.path() / "socket").string();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  expect_refused(path, "a socket");
  close(fd);
}

}  // namespace
}  // namespace nibblecast
