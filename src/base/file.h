// base/file.h - all file access of nibblecast goes through these two interfaces, so that tests can put
// a file system under it that fails, reads short, or forgets what was not synced.
//
// Offsets and sizes are bytes. Thread-safety: one File may be read and written by several threads at
// once as long as their ranges are disjoint; FileSystem functions may be called from any thread.
// Errors: kIo with path, offset and the system's reason; kDiskFull where the system says ENOSPC/EDQUOT. Only
// regular files are opened and copied: a folder, pipe, socket or device is an error that says so, at once. A
// file that is to be read and is missing, or no regular file, is kBadInput.
//
// What survives a power cut:
//   bytes, size, space   after File::sync(), through whichever File they were written; before it any part
//                        of them may, in any order. After a sync() that failed nothing is known of them; one
//                        that succeeds later proves nothing: they must be written again
//   a file's name        (made by open or copy, changed by rename or remove) after sync_folder() of its
//                        folder, of both for a rename between two; before it the old or the new state
//   rename onto a file   leaves the old file or the new one; of the new one, what was synced before
//   a folder's name      on return of create_folders()
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

// Direct requests bypass the page cache where offset, length and memory are multiples of this.
inline constexpr size_t kDirectAlignment = 4096;

// Which file it is and when it was last changed in any way (inode and its time of change, which no program
// can set): as long as a name has the same stamp, nobody has written to its file or put another one in its
// place.
struct FileStamp {
  uint64_t id = 0;
  int64_t changed_ns = 0;
  bool operator==(const FileStamp&) const = default;
};

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
  // Durable on return: bytes and size; not the name, see above.
  virtual void sync() = 0;
  // Reports what the system held back until now; the destructor closes silently.
  virtual void close() = 0;
  // nullopt where it is not known.
  virtual std::optional<FileStamp> stamp() { return std::nullopt; }
  // Its bytes come over a line: what is asked for travels, so nothing is gained by asking for whole pages,
  // and many requests are to be under way.
  virtual bool is_remote() const { return false; }

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
  kUpdateDirect,  // read and write, aligned requests as above; the file must exist and keeps its content
};

struct FileStatus {
  uint64_t size_bytes = 0;
  uint64_t disk_bytes = 0;  // that it takes; less than its size where it has holes
  int64_t mtime_ns = 0;
  bool is_folder = false;
  bool is_symlink = false;  // of the name itself; the other fields describe its target
  std::optional<FileStamp> stamp = {};
  std::string version =
      {};  // by which a server knows this content (a checksum or ETag); empty for a file here
};

// A disk (a mounted file system), as a path sees it: in the nearest folder above the path that is there.
struct Disk {
  std::filesystem::path folder;  // that folder, absolute
  bool is_writable = false;      // this process may make names in it
  uint64_t id = 0;               // equal for paths on one disk
  uint64_t free_bytes = 0;       // that an unprivileged user may still write
  uint64_t most_file_bytes = std::numeric_limits<uint64_t>::max();  // of one file
  uint64_t most_name_bytes = std::numeric_limits<uint64_t>::max();  // of one name in a folder
};

// Held until destroyed. The file stays; whoever removes it must hold the lock.
class FileLock {
 public:
  FileLock() = default;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  virtual ~FileLock() = default;
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
  // Those that are missing, each durable in its parent on return.
  virtual void create_folders(const Path& folder) = 0;
  virtual void rename(const Path& from, const Path& to) = 0;
  // A file, or a folder with all it holds; nothing there is no error.
  virtual void remove(const Path& path) = 0;
  // Copies a file by reflink where possible, else by bytes. `to` must not exist. The bytes are durable on
  // return, the name is not.
  virtual void copy(const Path& from, const Path& to) = 0;
  // Makes the names in a folder durable.
  virtual void sync_folder(const Path& folder) = 0;
  // Absolute, without links and `..`, as far as it is there.
  virtual Path real_path(const Path& path) = 0;
  virtual Disk disk(const Path& path) = 0;
  // A new file on the disk of `path`, without a name: it is gone when it is closed, or the process ends.
  // Aligned requests bypass the page cache. nullptr where the disk has no such files.
  virtual std::unique_ptr<File> open_unnamed(const Path& path) = 0;
  // Makes the file if it is missing, locks it against every other holder (process or FileLock) and writes
  // `holder` into it. nullptr where it is held: the holder's text is then in the file (but empty for the
  // moment that it takes to write it). The lock ends with the process, so a file without a living holder is
  // no obstacle; on a network file system it ends when the server notices that the client is gone. kRefused
  // where the file system has no locks: no substitute for them could tell a dead holder on another host from
  // a living one.
  virtual std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) = 0;
};

FileSystem& system_files();

// The whole of a small file. kBadInput if it is larger than `limit_bytes`.
std::string read_text(FileSystem& files, const std::filesystem::path& path, uint64_t limit_bytes);
// Writes `path` through `path`.partial: written, synced, renamed, folder synced.
void write_text_durably(FileSystem& files, const std::filesystem::path& path, std::string_view text);

}  // namespace nibblecast
