// tests/faults/watched_files.h - a file system that notes in shared memory what its process is about, and
// ends the process by SIGKILL in the middle of it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/file.h"

namespace nibblecast::testing {

// What a job is about, as seen from its file operations and its Progress; one at a time.
enum class Doing : uint32_t {
  kBegin,      // reads headers, plans, takes up what is there
  kRead,       // waits for the source's bytes
  kForward,    // forward pass
  kCast,       // makes and hands over output bytes
  kSaveState,  // writes the residual streams
  kJournal,    // appends to the journal; most often beside one of the above
  kFinish,     // headers, side files
  kRename,     // shards get their names
  kDocuments,  // the output's documents but config.json
  kConfig,     // config.json
  kEnd,        // removes the job's files
};
inline constexpr size_t kDoings = static_cast<size_t>(Doing::kEnd) + 1;
const char* doing_name(Doing doing);

// Memory that a process and the one that watches it share. Times in nanoseconds, of what has ended.
struct Watch {
  std::atomic<Doing> doing = Doing::kBegin;  // of the running thread
  std::atomic<uint32_t> appends = 0;         // to the journal, under way
  std::array<std::atomic<uint64_t>, kDoings> times = {}, count = {};
  std::atomic<uint64_t> layers_begun = 0;  // forward passes of a layer
  std::atomic<uint64_t> shard_bytes_written = 0;
  char error[1024] = {};  // why the process ended by itself

  Doing now() const { return appends > 0 ? Doing::kJournal : doing.load(); }
};

// When the process is to die: `delay_ns` after it began to be about `doing` for the n-th time, counted from
// 1; without `doing` after its first moment. The kernel's timer sends the signal.
struct Aim {
  std::optional<Doing> doing = {};
  uint64_t n = 1;
  uint64_t delay_ns = 0;
};

class WatchedFiles : public FileSystem {
 public:
  // `files` and `watch` must outlive this, this every File of it.
  WatchedFiles(FileSystem& files, Watch& watch, const Path& destination, std::optional<Aim> aim);

  // The running thread is now about `doing`.
  void turn_to(Doing doing);

  std::unique_ptr<File> open(const Path& path, Access access) override;
  std::optional<FileStatus> status(const Path& path) override { return files_.status(path); }
  std::vector<std::string> list(const Path& folder) override { return files_.list(folder); }
  void create_folders(const Path& folder) override { files_.create_folders(folder); }
  void rename(const Path& from, const Path& to) override;
  void remove(const Path& path) override;
  void copy(const Path& from, const Path& to) override { files_.copy(from, to); }
  void sync_folder(const Path& folder) override;
  Path real_path(const Path& path) override { return files_.real_path(path); }
  Disk disk(const Path& path) override { return files_.disk(path); }
  std::unique_ptr<File> open_unnamed(const Path& path) override { return files_.open_unnamed(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override {
    return files_.try_lock(path, holder);
  }

 private:
  class OpenFile;

  void begun(Doing doing);
  void ended(Doing doing, uint64_t since_ns);

  FileSystem& files_;
  Watch& watch_;
  const Path destination_;
  const std::optional<Aim> aim_;
  uint64_t turned_ns_ = 0;
};

}  // namespace nibblecast::testing
