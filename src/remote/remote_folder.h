// remote/remote_folder.h - the files of a model on a server, as a folder that is only read.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "remote/held_ranges.h"
#include "remote/hub_store.h"
#include "remote/line.h"
#include "remote/range_source.h"

namespace nibblecast {

// What is held of a folder's files at most: headers, norm vectors, small documents.
inline constexpr int64_t kMostHeldBytes = 64 << 20;

// Thread-safe. Files that are opened must not outlive it.
class RemoteFolder {
 public:
  struct Listed {
    RemoteEntry entry;
    std::string url;
    std::filesystem::path local = {};  // a copy of the same bytes on this machine; empty: none
  };

  // `address`: "hf://OWNER/NAME@COMMIT", the folder's path. The listing is all there is. `store`: gets all
  // bytes that come from the server; null: nobody does.
  RemoteFolder(std::string address, Line line, std::vector<Listed> files, FileSystem& local,
               std::unique_ptr<HubStore> store = nullptr);
  // A folder of a server that lists nothing, at `url`: a file is there if the server has it by its name.
  // list() names those of `known` that are there.
  RemoteFolder(std::string address, Line line, std::string url, std::vector<std::string> known);
  ~RemoteFolder();

  const std::string& address() const { return address_; }
  HubStore* store() const { return store_.get(); }

  // `name`: relative to the folder, normal; "" is the folder. As FileSystem's functions of these names, which
  // throw what RangeSource::read() does. open() with Access::kRead holds what it fetched.
  std::optional<FileStatus> status(const std::string& name);
  std::vector<std::string> list(const std::string& folder);
  std::unique_ptr<File> open(const std::string& name, Access access);

  // Fetches the headers of these safetensors files, and other small files whole, many at once, and holds
  // them; what is not there is left out. Errors as of open() and read, the first one; what a header holds is
  // not looked at.
  void fetch_headers(const std::vector<std::string>& names);

 private:
  struct Content;
  class RemoteFile;
  std::shared_ptr<Content> find(const std::string& name);
  std::shared_ptr<Content> probe(const std::string& name);
  void fetch_header(Content& content);

  const std::string address_, url_;
  const Line line_;
  FileSystem* const local_ = nullptr;
  const std::unique_ptr<HubStore> store_;
  const std::vector<std::string> known_;
  std::atomic<int64_t> room_ = kMostHeldBytes;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Content>> contents_;  // null: the server has no such file
};

}  // namespace nibblecast
