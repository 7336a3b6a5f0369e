// remote/hub_store.h - what streams by of a model or data set on the Hub, kept as the Hub's cache keeps it:
//
//   FOLDER/blobs/CHECKSUM                    a whole file, under the name that the Hub gives its content
//   FOLDER/snapshots/COMMIT/NAME             a link to it
//   FOLDER/refs/REVISION                     the commit that a branch or tag stood for
//   FOLDER/blobs/CHECKSUM.nibblecast.incomplete, .ranges   a file of which parts are here, and which
//
// Source: file_download.py of huggingface_hub 0.36. Its own *.incomplete holds a file's beginning and is
// gone on with from its end; ours may have gaps, so it has another name.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "remote/range_source.h"

namespace nibblecast {

// Thread-safe.
class HubStore {
 public:
  // `folder`: CACHE/models--OWNER--NAME. `reference`: the branch or tag that was asked for; empty: the commit
  // itself was. Error kRefused where another program stores into the same folder.
  HubStore(FileSystem& files, std::filesystem::path folder, std::string commit, std::string reference);
  // Ends what is being checked; it is checked the next time.
  ~HubStore();

  const std::filesystem::path& folder() const { return folder_; }

  // A file of the listing that is whole in blobs/: gets its link.
  void add_whole(const RemoteEntry& entry);
  // A file that an earlier run may have kept parts of.
  void add_parts(const RemoteEntry& entry);
  // Bytes that came from the server. On return they are in the file, and noted. One that is whole now is held
  // against its checksum by a thread of its own, then named. Errors: as of writing files.
  void take(const RemoteEntry& entry, uint64_t offset, std::span<const std::byte> bytes);

  // Whether these bytes of a file, of which parts are here, are among them.
  bool holds(const std::string& name, uint64_t begin, uint64_t end);

  struct Partial {
    std::string name;
    uint64_t bytes = 0, of = 0;
  };
  struct Report {
    uint64_t files = 0, bytes = 0;      // whole, by this object
    std::vector<Partial> partial = {};  // of which parts are here
  };
  // Waits for what is being checked; notes the revision where nothing is partial. Error kBadInput: a file
  // whose checksum is another, which is then removed. As of writing files.
  Report finish();

 private:
  struct Part;
  std::shared_ptr<Part> part_of(const RemoteEntry& entry);
  void check_later(std::shared_ptr<Part> part);
  void check_all();
  void check(Part& part);
  void link(const std::string& name, const RemoteEntry& entry);
  void note_reference();
  std::filesystem::path blob(const RemoteEntry& entry) const { return folder_ / "blobs" / entry.version; }

  FileSystem& files_;
  const std::filesystem::path folder_;
  const std::string commit_, reference_;
  std::unique_ptr<FileLock> lock_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Part>> parts_;  // by checksum
  std::deque<std::shared_ptr<Part>> to_check_;
  size_t unchecked_ = 0;  // in to_check_, and the one under way
  bool stop_ = false;
  std::exception_ptr error_;
  Report report_;
  std::thread checker_;
};

}  // namespace nibblecast
