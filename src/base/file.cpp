#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"

namespace nibblecast {
namespace {

[[noreturn]] void throw_system_error(const std::string& path, const char* action, int error,
                                     std::optional<uint64_t> offset = {}) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw Error(full ? ErrorKind::kDiskFull : ErrorKind::kIo, {.file = path, .offset = offset},
              std::string("cannot ") + action + ": " + std::strerror(error),
              {.hint = full ? "free some space and run the same command again" : ""});
}

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

bool is_direct_request(uint64_t offset, const void* memory, size_t size) {
  return (offset | reinterpret_cast<uintptr_t>(memory) | size) % kDirectAlignment == 0 && size > 0;
}

// Two descriptors of one file: requests that meet the alignment of O_DIRECT take the direct one, all
// others the page cache. A file system without O_DIRECT has only the second.
class SystemFile : public File {
 public:
  SystemFile(const std::string& path, Access access) : File(path) {
    const bool create = access == Access::kCreate || access == Access::kCreateDirect;
    const int flags = O_CLOEXEC | (create ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY);
    cached_ = Descriptor(::open(path.c_str(), flags, 0644));
    if (!cached_) throw_system_error(path, create ? "create" : "open", errno);
    if (access == Access::kReadDirect || access == Access::kCreateDirect) {
      direct_ = Descriptor(::open(path.c_str(), O_CLOEXEC | O_DIRECT | (create ? O_RDWR : O_RDONLY)));
    }
  }

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const auto transfer = [&](int fd) {
      return ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
    };
    const ssize_t done = retried(offset, to.data(), to.size(), transfer);
    if (done < 0) throw_system_error(path(), "read", errno, offset);
    return static_cast<size_t>(done);
  }

  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    const auto transfer = [&](int fd) {
      return ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
    };
    const ssize_t done = retried(offset, from.data(), from.size(), transfer);
    if (done < 0) throw_system_error(path(), "write", errno, offset);
    return static_cast<size_t>(done);
  }

  uint64_t size() override {
    struct stat info;
    if (::fstat(cached_.get(), &info) != 0) throw_system_error(path(), "examine", errno);
    return static_cast<uint64_t>(info.st_size);
  }

  void set_size(uint64_t size_bytes) override {
    if (::ftruncate(cached_.get(), static_cast<off_t>(size_bytes)) != 0) {
      throw_system_error(path(), "resize", errno);
    }
  }

  void reserve(uint64_t size_bytes) override {
    if (size_bytes > 0 && ::fallocate(cached_.get(), 0, 0, static_cast<off_t>(size_bytes)) != 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS) {
      throw_system_error(path(), "reserve space", errno);
    }
    set_size(size_bytes);
  }

  void sync() override {
    if (::fsync(cached_.get()) != 0) throw_system_error(path(), "sync", errno);
  }

  void close() override {
    direct_ = Descriptor();
    if (cached_ && ::close(cached_.release()) != 0) throw_system_error(path(), "close", errno);
  }

 private:
  // EINVAL from the direct descriptor means that this file system wants another alignment than ours:
  // the page cache takes the request.
  template <class Transfer>
  ssize_t retried(uint64_t offset, const void* memory, size_t size, Transfer transfer) {
    const bool direct = direct_ && is_direct_request(offset, memory, size);
    ssize_t done;
    do done = transfer(direct ? direct_.get() : cached_.get());
    while (done < 0 && errno == EINTR);
    if (direct && done < 0 && errno == EINVAL) {
      do done = transfer(cached_.get());
      while (done < 0 && errno == EINTR);
    }
    return done;
  }

  Descriptor cached_;
  Descriptor direct_;
};

class SystemFiles : public FileSystem {
 public:
  std::unique_ptr<File> open(const Path& path, Access access) override {
    return std::make_unique<SystemFile>(path.string(), access);
  }

  std::optional<FileStatus> status(const Path& path) override {
    struct stat target;
    if (::stat(path.c_str(), &target) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
      throw_system_error(path.string(), "examine", errno);
    }
    struct stat name;
    const bool is_symlink = ::lstat(path.c_str(), &name) == 0 && S_ISLNK(name.st_mode);
    return FileStatus{.size_bytes = static_cast<uint64_t>(target.st_size),
                      .mtime_ns = target.st_mtim.tv_sec * 1'000'000'000 + target.st_mtim.tv_nsec,
                      .is_folder = S_ISDIR(target.st_mode),
                      .is_symlink = is_symlink};
  }

  std::vector<std::string> list(const Path& folder) override {
    DIR* handle = ::opendir(folder.c_str());
    if (handle == nullptr) throw_system_error(folder.string(), "list", errno);
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(handle)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    ::closedir(handle);
    std::sort(names.begin(), names.end());
    return names;
  }

  void create_folders(const Path& folder) override {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) throw_system_error(folder.string(), "create folder", error.value());
  }

  void rename(const Path& from, const Path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) throw_system_error(from.string(), "rename", errno);
  }

  void remove(const Path& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) throw_system_error(path.string(), "remove", error.value());
  }

  void copy(const Path& from, const Path& to) override {
    Descriptor in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
    if (!in) throw_system_error(from.string(), "open", errno);
    Descriptor out(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!out) throw_system_error(to.string(), "create", errno);
    if (::ioctl(out.get(), FICLONE, in.get()) != 0) copy_bytes(from, in.get(), to, out.get());
    if (::fsync(out.get()) != 0) throw_system_error(to.string(), "sync", errno);
    if (::close(out.release()) != 0) throw_system_error(to.string(), "close", errno);
  }

  void sync_folder(const Path& folder) override {
    Descriptor handle(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!handle) throw_system_error(folder.string(), "open folder", errno);
    // EINVAL: a file system that cannot sync folders (some network ones); nothing more can be done.
    if (::fsync(handle.get()) != 0 && errno != EINVAL) {
      throw_system_error(folder.string(), "sync folder", errno);
    }
  }

  uint64_t free_bytes(const Path& path) override {
    Path existing = std::filesystem::absolute(path);
    while (!std::filesystem::exists(existing) && existing.has_parent_path() &&
           existing != existing.root_path()) {
      existing = existing.parent_path();
    }
    struct statvfs info;
    if (::statvfs(existing.c_str(), &info) != 0) {
      throw_system_error(existing.string(), "examine file system", errno);
    }
    return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  }

 private:
  static void copy_bytes(const Path& from, int in, const Path& to, int out) {
    std::vector<char> block(1 << 20);
    while (true) {
      const ssize_t got = ::read(in, block.data(), block.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_system_error(from.string(), "read", errno);
      if (got == 0) return;
      for (ssize_t done = 0; done < got;) {
        const ssize_t put = ::write(out, block.data() + done, static_cast<size_t>(got - done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) throw_system_error(to.string(), "write", errno);
        done += put;
      }
    }
  }
};

}  // namespace

void File::read(uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const size_t done = read_some(offset, to);
    if (done == 0) {
      throw Error(ErrorKind::kIo, {.file = path(), .offset = offset},
                  "file ends " + std::to_string(to.size()) + " bytes early",
                  {.hint = "was it changed or truncated meanwhile?"});
    }
    offset += done;
    to = to.subspan(done);
  }
}

void File::write(uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const size_t done = write_some(offset, from);
    offset += done;
    from = from.subspan(done);
  }
}

FileSystem& system_files() {
  static SystemFiles files;
  return files;
}

std::string read_text(FileSystem& files, const std::filesystem::path& path, uint64_t limit_bytes) {
  const auto file = files.open(path, Access::kRead);
  const uint64_t size = file->size();
  if (size > limit_bytes) {
    throw Error(
        ErrorKind::kBadInput, {.file = path.string()}, "file is too large to be what its name says",
        {.expected = "at most " + std::to_string(limit_bytes) + " bytes", .found = std::to_string(size)});
  }
  std::string text(size, '\0');
  file->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_durably(FileSystem& files, const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path partial = path.string() + ".partial";
  const auto file = files.open(partial, Access::kCreate);
  file->write(0, std::as_bytes(std::span(text)));
  file->sync();
  file->close();
  files.rename(partial, path);
  files.sync_folder(path.has_parent_path() ? path.parent_path() : ".");
}

}  // namespace nibblecast
