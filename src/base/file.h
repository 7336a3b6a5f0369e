// base/file.h - all file access of nibblecast goes through these two interfaces, so that tests can put
// a file system under it that fails, reads short, or forgets what was not synced.
//
// Offsets and sizes are bytes. Thread-safety: one File may be read and written by several threads at
// once as long as their ranges are disjoint; FileSystem functions may be called from any thread.
// Errors: kIo with path, offset and the system's reason; kDiskFull where the system says ENOSPC/EDQUOT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

// Direct requests bypass the page cache where offset, length and memory are multiples of this.
inline constexpr size_t kDirectAlignment = 4096;

class File {
 public:
  virtual ~File() = default;

  // One system call; may transfer less than asked. 0 from read_some means end of file.
  virtual size_t read_some(uint64_t offset, std::span<std::byte> to) = 0;
  virtual size_t write_some(uint64_t offset, std::span<const std::byte> from) = 0;
  virtual uint64_t size() = 0;
  virtual void set_size(uint64_t size_bytes) = 0;
  // Sets the size and takes its space now, where the file system can: a full disk shows before any work.
  virtual void reserve(uint64_t size_bytes) { set_size(size_bytes); }
  // Durable on return: data and size.
  virtual void sync() = 0;
  // Reports what the system held back until now; the destructor closes silently.
  virtual void close() = 0;

  // Whole range or Error; an end of file inside the range is kIo "ends early".
  void read(uint64_t offset, std::span<std::byte> to);
  void write(uint64_t offset, std::span<const std::byte> from);

  const std::string& path() const { return path_; }

 protected:
  explicit File(std::string path) : path_(std::move(path)) {}

 private:
  std::string path_;
};

enum class Access {
  kRead,          // through the page cache
  kReadDirect,    // aligned requests bypass the page cache if the file system can, others use it
  kCreate,        // read and write; created empty, an existing file is emptied
  kCreateDirect,  // the same, aligned requests bypassing the page cache
};

struct FileStatus {
  uint64_t size_bytes = 0;
  int64_t mtime_ns = 0;
  bool is_folder = false;
  bool is_symlink = false;  // of the name itself; the other fields describe its target
};

class FileSystem {
 public:
  using Path = std::filesystem::path;
  virtual ~FileSystem() = default;

  virtual std::unique_ptr<File> open(const Path& path, Access access) = 0;
  // Follows symbolic links; nullopt where nothing is there.
  virtual std::optional<FileStatus> status(const Path& path) = 0;
  // Names in a folder, sorted.
  virtual std::vector<std::string> list(const Path& folder) = 0;
  virtual void create_folders(const Path& folder) = 0;
  virtual void rename(const Path& from, const Path& to) = 0;
  virtual void remove(const Path& path) = 0;
  // Copies a file by reflink where possible, else by bytes. `to` must not exist. Not yet durable.
  virtual void copy(const Path& from, const Path& to) = 0;
  // Makes the names in a folder durable.
  virtual void sync_folder(const Path& folder) = 0;
  // Bytes an unprivileged user may still write to the file system that holds `path` (its nearest
  // existing ancestor).
  virtual uint64_t free_bytes(const Path& path) = 0;
};

FileSystem& system_files();

// The whole of a small file. kBadInput if it is larger than `limit_bytes`.
std::string read_text(FileSystem& files, const std::filesystem::path& path, uint64_t limit_bytes);
// Writes `path` through `path`.partial: written, synced, renamed, folder synced.
void write_text_durably(FileSystem& files, const std::filesystem::path& path, std::string_view text);

}  // namespace nibblecast
