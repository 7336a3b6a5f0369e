// remote/remote_files.h - the files of this machine, and the folders of servers that were mounted beside
// them.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "remote/remote_folder.h"

namespace nibblecast {

// A path that begins with a mounted folder's address leads there; all others to `local`. What is on a server
// is never written, renamed or removed (kRefused); it may be copied from there. Thread-safe.
class RemoteFiles : public FileSystem {
 public:
  explicit RemoteFiles(FileSystem& local) : local_(local) {}

  // The folder stays until the end; one with the same address takes its place for later paths.
  RemoteFolder& mount(std::unique_ptr<RemoteFolder> folder);

  std::unique_ptr<File> open(const Path& path, Access access) override;
  std::optional<FileStatus> status(const Path& path) override;
  std::vector<std::string> list(const Path& folder) override;
  void create_folders(const Path& folder) override;
  void rename(const Path& from, const Path& to) override;
  void remove(const Path& path) override;
  void copy(const Path& from, const Path& to) override;
  void sync_folder(const Path& folder) override;
  Path real_path(const Path& path) override;
  // Of an address: the disk of the current folder.
  Disk disk(const Path& path) override;
  std::unique_ptr<File> open_unnamed(const Path& path) override;
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override;

 private:
  struct Place {
    RemoteFolder* folder = nullptr;  // nullptr: a path of this machine
    std::string name;
  };
  Place place_of(const Path& path);
  // The path, which must be one of this machine.
  const Path& local_path(const Path& path);

  FileSystem& local_;
  std::mutex mutex_;
  std::vector<std::pair<std::string, std::unique_ptr<RemoteFolder>>> folders_;  // by normal path
};

}  // namespace nibblecast
