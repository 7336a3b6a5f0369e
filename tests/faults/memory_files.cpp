#include "faults/memory_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/descriptor.h"
#include "base/error.h"

namespace nibblecast::testing {
namespace {

using Bytes = std::vector<std::byte>;
using Path = std::filesystem::path;

// A write of bytes at an offset, or a change of size to it.
struct Change {
  uint64_t offset = 0;
  Bytes bytes = {};
  bool resizes = false;
};

void put(Bytes& content, uint64_t offset, std::span<const std::byte> bytes) {
  content.resize(std::max<size_t>(content.size(), offset + bytes.size()));
  std::ranges::copy(bytes, content.begin() + static_cast<ptrdiff_t>(offset));
}

void apply_change(Bytes& content, const Change& change) {
  if (change.resizes) {
    content.resize(change.offset);
  } else {
    put(content, change.offset, change.bytes);
  }
}

Path normal(const Path& path) {
  const Path plain = ("/" / path).lexically_normal();
  return plain.has_filename() ? plain : plain.parent_path();
}

template <class NodePointer>
void require_readable(const NodePointer& node, const Path& path) {
  if (!node) throw_missing_input(path.string(), "open");
  if (node->is_folder)
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "cannot open: not a regular file");
}

bool heads(std::mt19937_64& random) { return random() % 2 == 0; }

}  // namespace

struct MemoryFiles::Node {
  Node(bool folder, uint64_t number) : is_folder(folder), id(number) {}
  const bool is_folder;
  const uint64_t id;
  // Of a file.
  Bytes content;
  std::optional<Bytes> durable;  // where it differs from `content` by `unsynced`
  std::vector<Change> unsynced;
  int64_t mtime_ns = 0, durable_mtime_ns = 0;  // the time of change too
  // Of a folder.
  std::map<std::string, NodePointer> names, durable_names;

  void change(Change made) {
    if (!durable) durable = content;
    apply_change(content, made);
    unsynced.push_back(std::move(made));
  }
  void sync() {
    durable.reset();
    unsynced.clear();
    durable_mtime_ns = mtime_ns;
  }
};

class MemoryFiles::OpenFile : public File {
 public:
  OpenFile(std::string path, MemoryFiles& files, NodePointer node, bool writable)
      : File(std::move(path)), files_(files), node_(std::move(node)), writable_(writable) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const std::lock_guard lock(files_.mutex_);
    if (offset >= node_->content.size()) return 0;
    const size_t count = std::min<size_t>(to.size(), node_->content.size() - offset);
    std::memcpy(to.data(), node_->content.data() + offset, count);
    return count;
  }

  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    change("write", {.offset = offset, .bytes = Bytes(from.begin(), from.end())});
    return from.size();
  }

  uint64_t size() override {
    const std::lock_guard lock(files_.mutex_);
    return node_->content.size();
  }

  void set_size(uint64_t size_bytes) override { change("resize", {.offset = size_bytes, .resizes = true}); }

  void sync() override {
    const std::lock_guard lock(files_.mutex_);
    if (writable_) node_->sync();
  }

  void close() override {}
  std::optional<FileStamp> stamp() override {
    const std::lock_guard lock(files_.mutex_);
    return FileStamp{.id = node_->id, .changed_ns = node_->mtime_ns};
  }

 private:
  void change(const char* action, Change made) {
    if (!writable_) throw_system_error(path(), action, EBADF);
    const std::lock_guard lock(files_.mutex_);
    node_->change(std::move(made));
    node_->mtime_ns = ++files_.clock_ns_;
  }

  MemoryFiles& files_;
  const NodePointer node_;
  const bool writable_;
};

class MemoryFiles::Lock : public FileLock {
 public:
  Lock(MemoryFiles& files, NodePointer node) : files_(files), node_(std::move(node)) {}
  ~Lock() override {
    const std::lock_guard lock(files_.mutex_);
    files_.locked_.erase(node_.get());
  }

 private:
  MemoryFiles& files_;
  const NodePointer node_;
};

MemoryFiles::MemoryFiles(NameLoss loss) : loss_(loss), root_(make_node(true)) {}
MemoryFiles::~MemoryFiles() = default;

MemoryFiles::NodePointer MemoryFiles::make_node(bool is_folder) {
  return std::make_shared<Node>(is_folder, ++nodes_);
}

MemoryFiles::NodePointer MemoryFiles::find(const Path& path) const {
  NodePointer node = root_;
  for (const Path& part : normal(path).relative_path()) {
    const auto found = node->names.find(part.string());
    if (found == node->names.end()) return nullptr;
    node = found->second;
  }
  return node;
}

MemoryFiles::NodePointer MemoryFiles::folder_of(const Path& path, const char* action) const {
  NodePointer folder = find(normal(path).parent_path());
  if (!folder) throw_system_error(path.string(), action, ENOENT);
  if (!folder->is_folder) throw_system_error(path.string(), action, ENOTDIR);
  return folder;
}

void MemoryFiles::change(NameChange change) {
  if (change.from_folder) change.from_folder->names.erase(change.from);
  if (change.to_folder) change.to_folder->names[change.to] = change.node;
  unsynced_names_.push_back(std::move(change));
}

void MemoryFiles::make_durable(const NameChange& change) {
  if (change.from_folder) {
    auto& names = change.from_folder->durable_names;
    const auto old = names.find(change.from);
    if (old != names.end() && old->second == change.node) names.erase(old);
  }
  if (change.to_folder) change.to_folder->durable_names[change.to] = change.node;
}

MemoryFiles::NodePointer MemoryFiles::create_file(const Path& path) {
  const NodePointer folder = folder_of(path, "create");
  const NodePointer node = make_node(false);
  node->mtime_ns = ++clock_ns_;
  change({.node = node, .from_folder = {}, .to_folder = folder, .from = {}, .to = normal(path).filename()});
  return node;
}

std::unique_ptr<File> MemoryFiles::open(const Path& path, Access access) {
  const std::lock_guard lock(mutex_);
  const bool create = access == Access::kCreate || access == Access::kCreateDirect;
  const char* action = create ? "create" : "open";
  NodePointer node = find(path);
  if (access == Access::kRead || access == Access::kReadDirect) require_readable(node, path);
  if (node && node->is_folder) throw_system_error(path.string(), action, EISDIR);
  if (!node && !create) throw_system_error(path.string(), action, ENOENT);
  if (!node) {
    node = create_file(path);
  } else if (create && !node->content.empty()) {
    node->change({.offset = 0, .resizes = true});
    node->mtime_ns = ++clock_ns_;
  }
  return std::make_unique<OpenFile>(path.string(), *this, node, create || access == Access::kUpdateDirect);
}

std::optional<FileStatus> MemoryFiles::status(const Path& path) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(path);
  if (!node) return std::nullopt;
  return FileStatus{.size_bytes = node->content.size(),
                    .disk_bytes = node->content.size(),
                    .mtime_ns = node->mtime_ns,
                    .is_folder = node->is_folder,
                    .is_symlink = false,
                    .stamp = FileStamp{.id = node->id, .changed_ns = node->mtime_ns}};
}

std::vector<std::string> MemoryFiles::list(const Path& folder) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(folder);
  if (!node || !node->is_folder) throw_system_error(folder.string(), "list", node ? ENOTDIR : ENOENT);
  std::vector<std::string> names;
  for (const auto& [name, entry] : node->names) names.push_back(name);
  return names;
}

void MemoryFiles::create_folders(const Path& folder) {
  const std::lock_guard lock(mutex_);
  NodePointer at = root_;
  for (const Path& part : normal(folder).relative_path()) {
    NodePointer& next = at->names[part.string()];
    if (!next) at->durable_names[part.string()] = next = make_node(true);
    if (!next->is_folder) throw_system_error(folder.string(), "create folder", EEXIST);
    at = next;
  }
}

void MemoryFiles::rename(const Path& from, const Path& to) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(from);
  const NodePointer replaced = find(to);
  if (!node) throw_system_error(from.string(), "rename", ENOENT);
  if (replaced && replaced->is_folder) throw_system_error(from.string(), "rename", EISDIR);
  change({.node = node,
          .from_folder = folder_of(from, "rename"),
          .to_folder = folder_of(to, "rename"),
          .from = normal(from).filename(),
          .to = normal(to).filename()});
}

void MemoryFiles::remove_below(const NodePointer& folder) {
  while (!folder->names.empty()) {
    const auto [name, node] = *folder->names.begin();
    if (node->is_folder) remove_below(node);
    change({.node = node, .from_folder = folder, .to_folder = {}, .from = name, .to = {}});
  }
}

void MemoryFiles::remove(const Path& path) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(path);
  if (!node) return;
  if (node->is_folder) remove_below(node);
  change({.node = node,
          .from_folder = folder_of(path, "remove"),
          .to_folder = {},
          .from = normal(path).filename(),
          .to = {}});
}

void MemoryFiles::copy(const Path& from, const Path& to) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(from);
  require_readable(node, from);
  if (find(to)) throw_system_error(to.string(), "create", EEXIST);
  create_file(to)->content = node->content;
}

void MemoryFiles::sync_folder(const Path& folder) {
  const std::lock_guard lock(mutex_);
  const NodePointer node = find(folder);
  if (!node || !node->is_folder) throw_system_error(folder.string(), "open folder", node ? ENOTDIR : ENOENT);
  if (loss_ == NameLoss::kJournal) {
    const auto last = std::find_if(unsynced_names_.rbegin(), unsynced_names_.rend(),
                                   [&](const NameChange& change) { return change.folder() == node; });
    make_first_durable(static_cast<size_t>(unsynced_names_.rend() - last));
    return;
  }
  std::erase_if(unsynced_names_, [&](const NameChange& change) {
    if (change.folder() != node) return false;
    make_durable(change);
    return true;
  });
}

void MemoryFiles::make_first_durable(size_t count) {
  const auto end = unsynced_names_.begin() + static_cast<ptrdiff_t>(count);
  std::for_each(unsynced_names_.begin(), end, make_durable);
  unsynced_names_.erase(unsynced_names_.begin(), end);
}

Path MemoryFiles::real_path(const Path& path) { return normal(path); }

Disk MemoryFiles::disk(const Path& path) {
  const std::lock_guard lock(mutex_);
  Path folder = normal(path);
  for (NodePointer node = find(folder); !node || !node->is_folder; node = find(folder))
    folder = folder.parent_path();
  return {.folder = folder, .is_writable = true, .id = 1, .free_bytes = uint64_t{1} << 40};
}

std::unique_ptr<File> MemoryFiles::open_unnamed(const Path& path) {
  return std::make_unique<OpenFile>(path.string(), *this, make_node(false), true);
}

std::unique_ptr<FileLock> MemoryFiles::try_lock(const Path& path, std::string_view holder) {
  const std::lock_guard lock(mutex_);
  NodePointer node = find(path);
  if (node && node->is_folder) throw_system_error(path.string(), "lock", EISDIR);
  if (!node) node = create_file(path);
  if (!locked_.emplace(node.get(), true).second) return nullptr;
  const auto text = std::as_bytes(std::span(holder));
  node->change({.offset = 0, .resizes = true});
  node->change({.offset = 0, .bytes = Bytes(text.begin(), text.end())});
  node->sync();
  return std::make_unique<Lock>(*this, node);
}

void MemoryFiles::lose_bytes(Node& file, std::mt19937_64& random) {
  if (!file.durable) return;
  Bytes content = std::move(*file.durable);
  uint64_t size = content.size();
  uint64_t seen_size = size;
  // Also none or all of a file's sectors, which fair coins alone would never give.
  const uint64_t mood = random() % 4;
  for (const Change& change : file.unsynced) {
    seen_size =
        change.resizes ? change.offset : std::max<uint64_t>(seen_size, change.offset + change.bytes.size());
    if (mood == 1 || heads(random)) size = seen_size;
    if (change.resizes && size == change.offset) content.resize(std::min<size_t>(content.size(), size));
    for (uint64_t at = 0; at < change.bytes.size();) {
      const uint64_t sector_end = ((change.offset + at) / kSectorBytes + 1) * kSectorBytes;
      const uint64_t count = std::min(sector_end - change.offset, change.bytes.size()) - at;
      const bool kept = mood == 1 || (mood != 0 && heads(random));
      if (kept) put(content, change.offset + at, std::span(change.bytes).subspan(at, count));
      at += count;
    }
  }
  content.resize(size);
  file.content = std::move(content);
  if (heads(random)) file.mtime_ns = file.durable_mtime_ns;
  file.sync();
}

void MemoryFiles::lose_below(Node& folder, std::mt19937_64& random) {
  // A folder of several machines must not be written to.
  if (folder.names != folder.durable_names) folder.names = folder.durable_names;
  for (const auto& [name, node] : folder.names) {
    if (node->is_folder) {
      lose_below(*node, random);
    } else {
      lose_bytes(*node, random);
    }
  }
}

void MemoryFiles::power_cut(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  if (loss_ == NameLoss::kJournal) {
    make_first_durable(random() % (unsynced_names_.size() + 1));
  } else {
    for (const NameChange& change : unsynced_names_) {
      if (heads(random)) make_durable(change);
    }
  }
  unsynced_names_.clear();
  locked_.clear();
  lose_below(*root_, random);
}

void MemoryFiles::sync_below(Node& folder) {
  for (const auto& [name, node] : folder.names) {
    if (node->is_folder) {
      sync_below(*node);
    } else {
      node->sync();
    }
  }
}

void MemoryFiles::sync_all() {
  const std::lock_guard lock(mutex_);
  make_first_durable(unsynced_names_.size());
  sync_below(*root_);
}

void MemoryFiles::share(const MemoryFiles& other, const Path& folder) {
  create_folders(normal(folder).parent_path());
  const NodePointer shared = other.find(folder);
  const std::lock_guard lock(mutex_);
  const NodePointer parent = folder_of(folder, "share");
  const std::string name = normal(folder).filename();
  parent->names[name] = parent->durable_names[name] = shared;
}

std::map<std::string, std::string> MemoryFiles::contents(const Path& folder) const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::string> found;
  const auto add = [&](const auto& self, const NodePointer& node, const Path& path) -> void {
    if (!node->is_folder) {
      found[path.string()].assign(reinterpret_cast<const char*>(node->content.data()), node->content.size());
    }
    for (const auto& [name, below] : node->names) self(self, below, path / name);
  };
  if (const NodePointer top = find(folder)) add(add, top, "");
  return found;
}

}  // namespace nibblecast::testing
