// tests/faults/memory_files.h - a machine's files in memory, and what a power cut leaves of them.
//
// Behaves as base/file.h says, with the system's error texts; no symbolic links, no permissions, paths are
// taken as absolute. Beside what a running machine sees it keeps what is durable and the list of changes that
// are not, and power_cut() draws what survives. All functions may be called from any thread.
//
// The model of a power cut
//   bytes   each write since the file's last sync falls apart into sectors of 512 bytes, each kept or lost
//           on its own; what a sector holds afterwards is its durable content or one of those it had since.
//   stamp   of the time of change, the newest or that of the last sync.
//   size    the one it had after any of the changes since the sync, or the durable one. What lies within it
//           and was never kept reads as zero.
//   names   NameLoss::kJournal: the changes of all folders form one sequence, as ext4's and XFS's journals
//           have it; a beginning of it survives, at least up to the last change of a synced folder.
//           NameLoss::kAnySubset, harsher than any file system that we know: each change not followed by a
//           sync of its folder survives or not, whatever became of those before it.
//           A rename is one change in both, of the folder it leads to. Syncing a file makes no name durable.
//   locks   are gone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace nibblecast::testing {

inline constexpr size_t kSectorBytes = 512;

enum class NameLoss { kJournal, kAnySubset };

class MemoryFiles : public FileSystem {
 public:
  explicit MemoryFiles(NameLoss loss = NameLoss::kAnySubset);
  ~MemoryFiles() override;

  // From now on the machine after the next boot. No File or FileLock may be open.
  void power_cut(uint64_t seed);
  // Everything durable as it is.
  void sync_all();
  // Shows a folder of another machine here, under the same path; all of it must be durable there, and nobody
  // may change it from now on.
  void share(const MemoryFiles& other, const Path& folder);
  // All files below a folder by their path in it; empty where there is none.
  std::map<std::string, std::string> contents(const Path& folder) const;

  std::unique_ptr<File> open(const Path& path, Access access) override;
  std::optional<FileStatus> status(const Path& path) override;
  std::vector<std::string> list(const Path& folder) override;
  void create_folders(const Path& folder) override;
  void rename(const Path& from, const Path& to) override;
  void remove(const Path& path) override;
  void copy(const Path& from, const Path& to) override;
  void sync_folder(const Path& folder) override;
  Path real_path(const Path& path) override;
  Disk disk(const Path& path) override;
  std::unique_ptr<File> open_unnamed(const Path& path) override;
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override;

 private:
  struct Node;
  using NodePointer = std::shared_ptr<Node>;
  class OpenFile;
  class Lock;

  // A change of names: `node` gets the name `to` in folder `to_folder` (none: it is removed only) and loses
  // the name `from` in `from_folder` (none: it is new).
  struct NameChange {
    NodePointer node;
    NodePointer from_folder, to_folder;
    std::string from, to;
    const NodePointer& folder() const { return to_folder ? to_folder : from_folder; }
  };

  NodePointer make_node(bool is_folder);
  NodePointer find(const Path& path) const;
  NodePointer folder_of(const Path& path, const char* action) const;
  NodePointer create_file(const Path& path);
  void change(NameChange change);
  static void make_durable(const NameChange& change);
  void make_first_durable(size_t count);
  void remove_below(const NodePointer& folder);
  static void lose_bytes(Node& file, std::mt19937_64& random);
  static void lose_below(Node& folder, std::mt19937_64& random);
  static void sync_below(Node& folder);

  const NameLoss loss_;
  mutable std::mutex mutex_;
  uint64_t nodes_ = 0;
  NodePointer root_;
  std::vector<NameChange> unsynced_names_;  // of all folders, oldest first
  std::map<const Node*, bool> locked_;
  int64_t clock_ns_ = 0;
};

}  // namespace nibblecast::testing
