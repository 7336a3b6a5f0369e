#include "remote/remote_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/digest.h"
#include "base/error.h"
#include "base/threads.h"

namespace nibblecast {
namespace {

// A file so small, if it holds no weights, is fetched whole and held against its checksum.
constexpr uint64_t kWholeBytes = 1 << 20;
constexpr uint64_t kMostGitBytes = 16 << 20;
constexpr uint64_t kHeadBytes = 64 << 10;
constexpr uint64_t kLengthBytes = 8, kMostHeaderBytes = 100'000'000;
constexpr size_t kHeaderThreads = 16;
constexpr size_t kSha1Digits = 40;

// Small files, and what the Hub keeps in git: it may answer a range of that with all of it.
bool comes_whole(const RemoteEntry& entry) {
  const bool is_git = entry.is_checksum && entry.version.size() == kSha1Digits;
  return entry.size_bytes <= (is_git ? kMostGitBytes : kWholeBytes) && !entry.name.ends_with(".safetensors");
}

[[noreturn]] void refuse_writing(const std::string& path) {
  throw Error(ErrorKind::kRefused, {.file = path}, "is on a server, which is never written to");
}

std::string checksum_of(const RemoteEntry& entry, std::span<const std::byte> bytes) {
  const bool is_git = entry.version.size() == kSha1Digits;
  Digest digest(is_git ? Digest::Kind::kSha1 : Digest::Kind::kSha256);
  if (is_git) digest.add(fmt::format("blob {}", bytes.size()) + '\0');
  digest.add(bytes);
  return digest.hex();
}

}  // namespace

struct RemoteFolder::Content {
  Content(const Line& line, Listed file, std::string path, std::atomic<int64_t>& room, HubStore* keeper)
      : source(line, std::move(file.entry), std::move(file.url), std::move(path)),
        held(room),
        local(std::move(file.local)),
        store(keeper) {}

  void read(uint64_t offset, std::span<std::byte> to, bool keep) {
    if (comes_whole(source.entry())) {
      hold_whole();
      keep = true;
    }
    held.read(offset, to, keep, [this](uint64_t begin, std::span<std::byte> gap) { fetch(begin, gap); });
  }

  void fetch(uint64_t begin, std::span<std::byte> to) {
    source.read(begin, to);
    if (store != nullptr) store->take(source.entry(), begin, to);
  }

  // A small file comes in one piece; where a checksum is known, it is the right one.
  void hold_whole() {
    const std::lock_guard lock(whole_mutex);
    if (is_whole) return;
    std::vector<std::byte> bytes(source.entry().size_bytes);
    held.read(0, bytes, true, [this](uint64_t begin, std::span<std::byte> gap) { fetch(begin, gap); });
    const std::string& checksum = source.entry().version;
    if (source.entry().is_checksum && checksum_of(source.entry(), bytes) != checksum) {
      throw Error(ErrorKind::kBadInput, {.file = source.file()}, "arrived damaged: its checksum is another",
                  {.expected = checksum, .hint = "try again; does a proxy change what passes through it?"});
    }
    is_whole = true;
  }

  RangeSource source;
  HeldRanges held;
  const std::filesystem::path local;
  HubStore* const store;
  std::mutex whole_mutex;
  bool is_whole = false;
};

class RemoteFolder::RemoteFile : public File {
 public:
  RemoteFile(std::shared_ptr<Content> content, bool keep)
      : File(content->source.file()), content_(std::move(content)), keep_(keep) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const uint64_t end = size();
    if (offset >= end) return 0;
    to = to.first(std::min<uint64_t>(to.size(), end - offset));
    content_->read(offset, to, keep_);
    return to.size();
  }
  uint64_t size() override { return content_->source.entry().size_bytes; }
  bool is_remote() const override { return true; }
  size_t write_some(uint64_t, std::span<const std::byte>) override { refuse_writing(path()); }
  void set_size(uint64_t) override { refuse_writing(path()); }
  void sync() override { refuse_writing(path()); }
  void close() override {}

 private:
  const std::shared_ptr<Content> content_;
  const bool keep_;
};

RemoteFolder::RemoteFolder(std::string address, Line line, std::vector<Listed> files, FileSystem& local,
                           std::unique_ptr<HubStore> store)
    : address_(std::move(address)), line_(std::move(line)), local_(&local), store_(std::move(store)) {
  for (Listed& file : files) {
    const std::string name = file.entry.name;
    contents_[name] =
        std::make_shared<Content>(line_, std::move(file), address_ + "/" + name, room_, store_.get());
  }
}

RemoteFolder::RemoteFolder(std::string address, Line line, std::string url, std::vector<std::string> known)
    : address_(std::move(address)), url_(std::move(url)), line_(std::move(line)), known_(std::move(known)) {}

RemoteFolder::~RemoteFolder() = default;

std::shared_ptr<RemoteFolder::Content> RemoteFolder::find(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = contents_.find(name);
    if (found != contents_.end()) return found->second;
    if (url_.empty()) return nullptr;
  }
  std::shared_ptr<Content> content = probe(name);
  const std::lock_guard lock(mutex_);
  return contents_.emplace(name, std::move(content)).first->second;
}

// Asks for the file's first bytes, which say how large it is, and holds them.
std::shared_ptr<RemoteFolder::Content> RemoteFolder::probe(const std::string& name) {
  const std::string path = address_ + "/" + name, url = url_ + "/" + url_quoted(name, "/");
  std::optional<ProbedFile> found = probe_file(line_, url, path, kHeadBytes);
  if (!found) return nullptr;
  Listed listed;
  listed.entry.name = name;
  listed.entry.size_bytes = found->size_bytes;
  listed.entry.version = found->etag;
  listed.url = url;
  auto content = std::make_shared<Content>(line_, std::move(listed), path, room_, nullptr);
  content->held.add(0, std::as_bytes(std::span(found->begin)));
  return content;
}

std::optional<FileStatus> RemoteFolder::status(const std::string& name) {
  if (name.empty()) return FileStatus{.is_folder = true};
  if (const auto content = find(name)) {
    const RemoteEntry& entry = content->source.entry();
    return FileStatus{.size_bytes = entry.size_bytes, .disk_bytes = 0, .version = entry.version};
  }
  const std::lock_guard lock(mutex_);
  const auto inside = contents_.lower_bound(name + "/");
  if (inside != contents_.end() && inside->first.starts_with(name + "/") && inside->second)
    return FileStatus{.is_folder = true};
  return std::nullopt;
}

std::vector<std::string> RemoteFolder::list(const std::string& folder) {
  run_on_threads(known_.size(), kHeaderThreads, [&](size_t index) { find(known_[index]); });
  const std::string prefix = folder.empty() ? "" : folder + "/";
  std::set<std::string> names;
  const std::lock_guard lock(mutex_);
  for (auto file = contents_.lower_bound(prefix); file != contents_.end(); ++file) {
    if (!file->first.starts_with(prefix)) break;
    const size_t end = file->first.find('/', prefix.size());
    if (file->second) names.insert(file->first.substr(prefix.size(), end - prefix.size()));
  }
  return {names.begin(), names.end()};
}

std::unique_ptr<File> RemoteFolder::open(const std::string& name, Access access) {
  const std::string path = address_ + "/" + name;
  if (access != Access::kRead && access != Access::kReadDirect) refuse_writing(path);
  std::shared_ptr<Content> content = find(name);
  if (!content) throw Error(ErrorKind::kBadInput, {.file = path}, "the server has no such file");
  if (!content->local.empty()) return local_->open(content->local, access);
  return std::make_unique<RemoteFile>(std::move(content), access == Access::kRead);
}

// The first bytes hold most headers whole; of longer ones they say the length.
void RemoteFolder::fetch_header(Content& content) {
  if (comes_whole(content.source.entry())) return content.hold_whole();
  const uint64_t size = content.source.entry().size_bytes;
  std::vector<std::byte> head(std::min(size, kHeadBytes));
  content.read(0, head, true);
  if (head.size() < kLengthBytes) return;
  uint64_t length;
  std::memcpy(&length, head.data(), sizeof length);
  if (length > kMostHeaderBytes || length > size - kLengthBytes || kLengthBytes + length <= head.size())
    return;
  std::vector<std::byte> rest(kLengthBytes + length - head.size());
  content.read(head.size(), rest, true);
}

void RemoteFolder::fetch_headers(const std::vector<std::string>& names) {
  run_on_threads(names.size(), kHeaderThreads, [&](size_t index) {
    const auto content = find(names[index]);
    if (content && content->local.empty()) fetch_header(*content);
  });
}

}  // namespace nibblecast
