// tests/faults/faulty_files.h - a file system that fails at one chosen operation.
//
// Wraps another one, counts every operation made through it and its files, and does at the n-th what the
// Fault says. Which operation is the n-th is as deterministic as the order in which the program makes them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <string>

#include "base/file.h"

namespace nibblecast::testing {

enum class Operation {
  kOpen,
  kCreate,
  kRead,
  kWrite,
  kSize,
  kSetSize,
  kReserve,
  kSync,
  kClose,  // of a file
  kStatus,
  kList,
  kCreateFolders,
  kRename,
  kRemove,
  kCopy,
  kSyncFolder,
  kDisk,
  kTryLock,
};
inline constexpr size_t kOperations = static_cast<size_t>(Operation::kTryLock) + 1;
const char* operation_name(Operation operation);

enum class Failure {
  kEio,       // once; half of what a write or copy was to write is written, half of a folder removed
  kEnospc,    // from then on, for every operation that may need space; a write or copy is half done
  kEdquot,    // the same
  kOneByte,   // a read or write transfers one byte
  kHalf,      // a read or write transfers half of its bytes
  kVanished,  // from then on everything fails with EIO, as on a lost network file system
  kCrash,     // from then on everything throws ProcessDied; half done as with kEio
};
inline constexpr size_t kFailures = static_cast<size_t>(Failure::kCrash) + 1;
const char* failure_name(Failure failure);
// Whether `failure` makes a difference at `operation`.
bool can_fail(Operation operation, Failure failure);

// Stands for the end of the process: no program catches it, because it derives from nothing.
struct ProcessDied {};

struct Fault {
  std::optional<Operation> operation = {};            // none: any
  uint64_t n = std::numeric_limits<uint64_t>::max();  // counted from 0 over the matching operations
  Failure failure = Failure::kEio;
};

class FaultyFiles : public FileSystem {
 public:
  // `files` must outlive this, this every File of it.
  explicit FaultyFiles(FileSystem& files, Fault fault = {}) : files_(files), fault_(fault) {}

  uint64_t count() const;
  uint64_t count(Operation operation) const;
  // The operation that the fault hit, as "write /a/b at 4096"; nothing if none was the n-th, or if the
  // failure makes no difference there.
  std::optional<std::string> hit() const;

  std::unique_ptr<File> open(const Path& path, Access access) override;
  std::optional<FileStatus> status(const Path& path) override;
  std::vector<std::string> list(const Path& folder) override;
  void create_folders(const Path& folder) override;
  void rename(const Path& from, const Path& to) override;
  void remove(const Path& path) override;
  void copy(const Path& from, const Path& to) override;
  void sync_folder(const Path& folder) override;
  Disk disk(const Path& path) override;
  // Not operations that count: they are no part of what makes a job's bytes durable.
  Path real_path(const Path& path) override { return files_.real_path(path); }
  std::unique_ptr<File> open_unnamed(const Path& path) override { return files_.open_unnamed(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override;

 private:
  class OpenFile;
  enum class Verdict { kPass, kOneByte, kHalf, kHalfThenFail, kFail };

  // Counts an operation; says what becomes of it.
  Verdict judge(Operation operation, const std::string& what, std::optional<uint64_t> offset = {});
  // For operations that are done or not: throws unless they pass.
  void pass(Operation operation, const Path& path);
  [[noreturn]] void fail(Operation operation, const std::string& path,
                         std::optional<uint64_t> offset = {}) const;

  FileSystem& files_;
  const Fault fault_;
  mutable std::mutex mutex_;
  std::array<uint64_t, kOperations> counts_ = {};
  bool struck_ = false;
  std::string hit_;
};

}  // namespace nibblecast::testing
