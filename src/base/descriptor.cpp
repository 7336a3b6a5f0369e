#include "base/descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"

namespace nibblecast {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "of an unknown kind";
}

bool only_reads(int flags) { return (flags & O_ACCMODE) == O_RDONLY; }

void require_regular(const std::string& path, int flags, const char* action, const struct stat& info) {
  if (S_ISREG(info.st_mode)) return;
  throw Error(only_reads(flags) ? ErrorKind::kBadInput : ErrorKind::kIo, {.file = path},
              std::string("cannot ") + action + ": not a regular file",
              {.expected = "a regular file",
               .found = kind_of(info.st_mode),
               .hint = S_ISFIFO(info.st_mode) ? "calibration texts can come through a pipe: `... | nibblecast ... "
                                                "--calib -`"
                                              : ""});
}

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

void throw_missing_input(const std::string& path, const char* action) {
  throw Error(ErrorKind::kBadInput, {.file = path},
              std::string("cannot ") + action + ": " + std::strerror(ENOENT));
}

void throw_system_error(const std::string& path, const char* action, int error,
                        std::optional<uint64_t> offset) {
  const bool full = error == ENOSPC || error == EDQUOT;
  const char* hint = full             ? "free some space and run the same command again"
                     : error == EFBIG ? "`ulimit -f` or the file system allows no larger file"
                     : error == EMFILE || error == ENFILE ? "raise `ulimit -n`"
                                                          : "";
  throw Error(full ? ErrorKind::kDiskFull : ErrorKind::kIo, {.file = path, .offset = offset},
              std::string("cannot ") + action + ": " + std::strerror(error), {.hint = hint});
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor open_regular(const std::string& path, int flags, const char* action) {
  struct stat info;
  // Before open, because opening some devices does something; after it, because the name may have changed.
  if (::stat(path.c_str(), &info) == 0) require_regular(path, flags, action, info);
  Descriptor file(
      uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644); }));
  if (!file && errno == ENOENT && only_reads(flags)) throw_missing_input(path, action);
  if (!file) throw_system_error(path, action, errno);
  if (::fstat(file.get(), &info) != 0) throw_system_error(path, "examine", errno);
  require_regular(path, flags, action, info);
  return file;
}

bool same_file(const Descriptor& a, const Descriptor& b) {
  struct stat info_a, info_b;
  return ::fstat(a.get(), &info_a) == 0 && ::fstat(b.get(), &info_b) == 0 && same_file(info_a, info_b);
}

bool same_file(const Descriptor& a, const std::string& path) {
  struct stat info_a, info_b;
  return ::fstat(a.get(), &info_a) == 0 && ::stat(path.c_str(), &info_b) == 0 && same_file(info_a, info_b);
}

}  // namespace nibblecast
