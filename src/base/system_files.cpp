#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/buffer.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMostFatFileBytes = 0xffffffff;

bool is_direct_request(uint64_t offset, const void* memory, size_t size) {
  return (offset | reinterpret_cast<uintptr_t>(memory) | size) % kDirectAlignment == 0 && size > 0;
}

FileStamp stamp_of(const struct stat& info) {
  return {.id = info.st_ino, .changed_ns = info.st_ctim.tv_sec * 1'000'000'000 + info.st_ctim.tv_nsec};
}

// Two descriptors of one file: requests that meet the alignment of O_DIRECT take the direct one, all
// others the page cache. A file system without O_DIRECT has only the second.
class SystemFile : public File {
 public:
  SystemFile(const std::string& path, Descriptor cached, Descriptor direct)
      : File(path), cached_(std::move(cached)), direct_(std::move(direct)) {}
  SystemFile(const std::string& path, Access access) : File(path) {
    const bool create = access == Access::kCreate || access == Access::kCreateDirect;
    const int mode = create || access == Access::kUpdateDirect ? O_RDWR : O_RDONLY;
    cached_ = open_regular(path, mode | (create ? O_CREAT | O_TRUNC : 0), create ? "create" : "open");
    if (access != Access::kRead && access != Access::kCreate) {
      direct_ = Descriptor(::open(path.c_str(), mode | O_CLOEXEC | O_DIRECT | O_NONBLOCK));
      // The name may mean another file by now.
      if (direct_ && !same_file(direct_, cached_)) direct_ = Descriptor();
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
    const auto resize = [&] { return ::ftruncate(cached_.get(), static_cast<off_t>(size_bytes)); };
    if (uninterrupted(resize) != 0) throw_system_error(path(), "resize", errno);
  }

  void reserve(uint64_t size_bytes) override {
    const auto allocate = [&] { return ::fallocate(cached_.get(), 0, 0, static_cast<off_t>(size_bytes)); };
    if (size_bytes > 0 && uninterrupted(allocate) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
      throw_system_error(path(), "reserve space", errno);
    }
    set_size(size_bytes);
  }

  void sync() override {
    if (uninterrupted([&] { return ::fsync(cached_.get()); }) != 0) throw_system_error(path(), "sync", errno);
  }

  void close() override {
    direct_ = Descriptor();
    if (cached_ && ::close(cached_.release()) != 0) throw_system_error(path(), "close", errno);
  }

  std::optional<FileStamp> stamp() override {
    struct stat info;
    if (::fstat(cached_.get(), &info) != 0) return std::nullopt;
    return stamp_of(info);
  }

 private:
  // EINVAL from the direct descriptor means that this file system wants another alignment than ours:
  // the page cache takes the request.
  template <class Transfer>
  ssize_t retried(uint64_t offset, const void* memory, size_t size, Transfer transfer) {
    const bool direct = direct_ && is_direct_request(offset, memory, size);
    const ssize_t done = uninterrupted([&] { return transfer(direct ? direct_.get() : cached_.get()); });
    if (!direct || done >= 0 || errno != EINVAL) return done;
    return uninterrupted([&] { return transfer(cached_.get()); });
  }

  Descriptor cached_;
  Descriptor direct_;
};

std::filesystem::path nearest_folder(std::filesystem::path path) {
  path = std::filesystem::absolute(path);
  if (!path.has_filename()) path = path.parent_path();
  std::error_code ignored;
  while (!std::filesystem::is_directory(path, ignored) && path != path.root_path()) path = path.parent_path();
  return path;
}

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
                      .disk_bytes = static_cast<uint64_t>(target.st_blocks) * 512,
                      .mtime_ns = target.st_mtim.tv_sec * 1'000'000'000 + target.st_mtim.tv_nsec,
                      .is_folder = S_ISDIR(target.st_mode),
                      .is_symlink = is_symlink,
                      .stamp = stamp_of(target)};
  }

  std::vector<std::string> list(const Path& folder) override {
    DIR* handle = ::opendir(folder.c_str());
    if (handle == nullptr) throw_system_error(folder.string(), "list", errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(handle)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
      errno = 0;
    }
    const int error = errno;
    ::closedir(handle);
    if (error != 0) throw_system_error(folder.string(), "list", error);
    std::sort(names.begin(), names.end());
    return names;
  }

  void create_folders(const Path& folder) override {
    const Path parent = folder.has_filename() ? folder.parent_path() : folder.parent_path().parent_path();
    struct stat info;
    const auto exists = [&] { return ::stat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode); };
    if (!exists()) {
      if (!parent.empty() && parent != folder) create_folders(parent);
      if (::mkdir(folder.c_str(), 0777) != 0) {
        const int error = errno;  // EEXIST: another process was faster, or it is no folder
        if (error != EEXIST || !exists()) throw_system_error(folder.string(), "create folder", error);
      }
    }
    // Also where it exists: whoever made it may have died before this.
    sync_folder(parent.empty() ? "." : parent);
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
    const Descriptor in = open_regular(from.string(), O_RDONLY, "open");
    Descriptor out = open_regular(to.string(), O_WRONLY | O_CREAT | O_EXCL, "create");
    if (::ioctl(out.get(), FICLONE, in.get()) != 0) copy_bytes(from, in.get(), to, out.get());
    if (uninterrupted([&] { return ::fsync(out.get()); }) != 0)
      throw_system_error(to.string(), "sync", errno);
    if (::close(out.release()) != 0) throw_system_error(to.string(), "close", errno);
  }

  void sync_folder(const Path& folder) override {
    const Descriptor handle(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // EACCES: a folder that may be written but not listed. EINVAL: a file system that cannot sync folders
    // (some network ones). Nothing more can be done.
    if (!handle && errno == EACCES) return;
    if (!handle) throw_system_error(folder.string(), "open folder", errno);
    if (uninterrupted([&] { return ::fsync(handle.get()); }) != 0 && errno != EINVAL) {
      throw_system_error(folder.string(), "sync folder", errno);
    }
  }

  Path real_path(const Path& path) override {
    std::error_code error;
    // Absolute first: weakly_canonical() leaves a relative path that does not exist as it is.
    const Path real = std::filesystem::weakly_canonical(std::filesystem::absolute(path), error);
    if (error) throw_system_error(path.string(), "examine", error.value());
    return real.has_filename() || !real.has_relative_path() ? real : real.parent_path();
  }

  Disk disk(const Path& path) override {
    Disk disk{.folder = nearest_folder(path)};
    struct stat folder;
    struct statvfs space;
    struct statfs kind;
    const char* name = disk.folder.c_str();
    if (::stat(name, &folder) != 0 || ::statvfs(name, &space) != 0 || ::statfs(name, &kind) != 0)
      throw_system_error(disk.folder.string(), "examine file system", errno);
    disk.is_writable = ::access(name, W_OK | X_OK) == 0;
    disk.id = folder.st_dev;
    disk.free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
    // By kind, as pathconf's _PC_FILESIZEBITS is 32 for every file system that the C library does not know.
    if (kind.f_type == MSDOS_SUPER_MAGIC) disk.most_file_bytes = kMostFatFileBytes;
    if (space.f_namemax > 0) disk.most_name_bytes = space.f_namemax;
    return disk;
  }

  std::unique_ptr<File> open_unnamed(const Path& path) override {
    const Path folder = nearest_folder(path);
    Descriptor direct(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600));
    if (!direct) return nullptr;
    // The same file again, for requests that are not aligned.
    const std::string self = "/proc/self/fd/" + std::to_string(direct.get());
    Descriptor cached(::open(self.c_str(), O_RDWR | O_CLOEXEC));
    if (!cached) return nullptr;
    return std::make_unique<SystemFile>((folder / "(unnamed)").string(), std::move(cached),
                                        std::move(direct));
  }

  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override {
    return lock_system_file(path.string(), holder);
  }

 private:
  static void copy_bytes(const Path& from, int in, const Path& to, int out) {
    std::vector<char> block(1 << 20);
    while (true) {
      const ssize_t got = uninterrupted([&] { return ::read(in, block.data(), block.size()); });
      if (got < 0) throw_system_error(from.string(), "read", errno);
      if (got == 0) return;
      for (ssize_t done = 0; done < got;) {
        const ssize_t put =
            uninterrupted([&] { return ::write(out, block.data() + done, static_cast<size_t>(got - done)); });
        if (put < 0) throw_system_error(to.string(), "write", errno);
        done += put;
      }
    }
  }
};

}  // namespace

FileSystem& system_files() {
  static SystemFiles files;
  return files;
}

}  // namespace nibblecast
