// remote/range_source.h - one file of a server, read by ranges: tried again, gone on with in the middle, and
// never another file's bytes.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "remote/line.h"

namespace nibblecast {

struct RemoteEntry {
  std::string name;         // relative to the folder: "model-00001-of-00002.safetensors"
  uint64_t size_bytes = 0;  // as the listing says
  // By which the server names the content: SHA-256, or git's SHA-1 of a small file; else an ETag, or empty.
  std::string version = {};
  bool is_checksum = false;  // `version` is one of the first two
  std::string commit = {};   // of the Hub: 40 digits
};

// Thread-safe.
class RangeSource {
 public:
  // `url`: where the file is, or what redirects to where it is; such a link is kept and used until the
  // server says that it has expired. `file`: for messages. `line` must outlive this.
  RangeSource(const Line& line, RemoteEntry entry, std::string url, std::string file);

  const RemoteEntry& entry() const { return entry_; }
  const std::string& file() const { return file_; }

  // The range's bytes, which must lie in the file. A connection that is cut is followed by a request for the
  // rest. Errors: kIo after the last try; what line.explain() throws; kBadInput where the file is not the one
  // that was listed (size, checksum, commit, or an ETag that changed); kUnsupported where the server does not
  // answer range requests.
  void read(uint64_t offset, std::span<std::byte> to);

 private:
  struct Transfer;
  std::string place();
  void keep_link(const std::string& url);
  void forget_link(const std::string& url);
  Transfer request(const std::string& url, uint64_t offset, std::span<std::byte> to);
  void check_head(const std::string& url, const HttpHead& head, uint64_t offset, size_t size,
                  Transfer& transfer);
  void check_version(const HttpHead& head);
  void check_etag(const HttpHead& head);
  [[noreturn]] void refuse_changed(const std::string& what, const std::string& expected,
                                   const std::string& found) const;

  const Line& line_;
  const RemoteEntry entry_;
  const std::string url_, file_;
  std::mutex mutex_;  // of what follows
  std::string link_;  // where `url_` leads; empty: not known, or expired
  std::string etag_;  // of the content, where nothing better is known; empty: none seen yet
};

}  // namespace nibblecast
