#include "base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/descriptor.h"
#include "base/error.h"

namespace nibblecast {
namespace {

class SystemLock : public FileLock {
 public:
  explicit SystemLock(Descriptor file) : file_(std::move(file)) {}

 private:
  Descriptor file_;  // closing it gives the lock back
};

void write_holder(const Descriptor& file, const std::string& path, std::string_view holder) {
  if (uninterrupted([&] { return ::ftruncate(file.get(), 0); }) != 0)
    throw_system_error(path, "resize", errno);
  for (size_t done = 0; done < holder.size();) {
    const ssize_t put = uninterrupted([&] {
      return ::pwrite(file.get(), holder.data() + done, holder.size() - done, static_cast<off_t>(done));
    });
    if (put < 0) throw_system_error(path, "write", errno, done);
    done += static_cast<size_t>(put);
  }
  // Other hosts of a network file system see it only then.
  if (uninterrupted([&] { return ::fsync(file.get()); }) != 0) throw_system_error(path, "sync", errno);
}

}  // namespace

std::unique_ptr<FileLock> lock_system_file(const std::string& path, std::string_view holder) {
  // A name that changes this often is not a finished job's doing.
  constexpr int kAttempts = 100;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Descriptor file = open_regular(path, O_RDWR | O_CREAT, "lock");
    if (uninterrupted([&] { return ::flock(file.get(), LOCK_EX | LOCK_NB); }) != 0) {
      if (errno == EWOULDBLOCK) return nullptr;
      throw Error(
          ErrorKind::kRefused, {.file = path},
          std::string("this file system cannot lock files: ") + std::strerror(errno),
          {.hint = "without a lock two runs could write into one another: use a file system with locks"});
    }
    // Whoever held it may have removed the file after it was opened here: that lock is nobody's.
    if (!same_file(file, path)) continue;
    write_holder(file, path, holder);
    return std::make_unique<SystemLock>(std::move(file));
  }
  throw Error(ErrorKind::kIo, {.file = path}, "cannot lock: the file is replaced again and again");
}

}  // namespace nibblecast
