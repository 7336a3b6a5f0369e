#include "remote/hub_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "base/cut.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/threads.h"
#include "remote/range_set.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr uint64_t kPieceBytes = 8 << 20;
constexpr uint64_t kMostNotesBytes = 64 << 20;
constexpr size_t kSha1Digits = 40;

// "BEGIN END" a line; a torn last line is none, and what does not fit makes all of it worthless.
RangeSet parse_notes(std::string_view text, uint64_t size) {
  RangeSet ranges;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    if (newline == text.npos) break;
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline + 1);
    const auto begin = take_number(line);
    const bool spaced = take(line, " ");
    const auto end = take_number(line);
    if (!begin || !spaced || !end || !line.empty() || *begin >= *end || *end > size) return {};
    ranges.add(*begin, *end);
  }
  return ranges;
}

Path with_suffix(Path path, const char* suffix) { return path += suffix; }
Path data_path(const Path& blob) { return with_suffix(blob, ".nibblecast.incomplete"); }
Path notes_path(const Path& blob) { return with_suffix(blob, ".nibblecast.ranges"); }

}  // namespace

struct HubStore::Part {
  explicit Part(RemoteEntry described) : entry(std::move(described)) {}

  // What an earlier run left, or new files.
  void open(FileSystem& files, const Path& blob) {
    const auto left = files.status(data_path(blob)), noted = files.status(notes_path(blob));
    if (left && noted && left->size_bytes == entry.size_bytes)
      ranges = parse_notes(read_text(files, notes_path(blob), kMostNotesBytes), entry.size_bytes);
    const bool is_new = ranges.bytes() == 0;
    data = files.open(data_path(blob), is_new ? Access::kCreate : Access::kUpdateDirect);
    notes = files.open(notes_path(blob), is_new ? Access::kCreate : Access::kUpdateDirect);
    if (is_new) data->set_size(entry.size_bytes);
    // After a torn line nothing would be read: that line is ended.
    notes_end = notes->size();
    if (notes_end == 0) return;
    std::byte last;
    notes->read(notes_end - 1, {&last, 1});
    if (last != std::byte{'\n'}) notes_end = last_line_end();
  }

  uint64_t last_line_end() {
    std::string text(notes_end, '\0');
    notes->read(0, std::as_writable_bytes(std::span(text)));
    return text.rfind('\n') + 1;
  }

  // Whether there is anything to write; until the end of it the file stays open.
  bool begin_write() {
    const std::lock_guard lock(mutex);
    if (is_whole) return false;
    ++writers;
    return true;
  }

  // Notes what was written. Whether the file is whole now, and nobody writes to it any more.
  bool end_write(uint64_t begin, uint64_t end) {
    const std::string line = fmt::format("{} {}\n", begin, end);
    const std::lock_guard lock(mutex);
    --writers;
    notes->write(notes_end, std::as_bytes(std::span(line)));
    notes_end += line.size();
    ranges.add(begin, end);
    if (is_whole || writers > 0 || !ranges.holds(0, entry.size_bytes)) return false;
    is_whole = true;
    return true;
  }

  const RemoteEntry entry;
  std::mutex mutex;             // of what follows, but for the content of `data`
  std::set<std::string> names;  // of all files with this content
  std::unique_ptr<File> data, notes;
  uint64_t notes_end = 0;
  RangeSet ranges;
  size_t writers = 0;
  bool is_whole = false;
};

HubStore::HubStore(FileSystem& files, Path folder, std::string commit, std::string reference)
    : files_(files),
      folder_(std::move(folder)),
      commit_(std::move(commit)),
      reference_(std::move(reference)) {
  files_.create_folders(folder_ / "blobs");
  files_.create_folders(folder_ / "snapshots" / commit_);
  const Path locks = folder_.parent_path() / ".locks" / folder_.filename();
  files_.create_folders(locks);
  lock_ = files_.try_lock(locks / "nibblecast.lock", fmt::format("process {}\n", ::getpid()));
  if (!lock_) {
    throw Error(ErrorKind::kRefused, {.file = folder_.string()},
                "another nibblecast stores the same model there",
                {.hint = "wait for it, or name another folder"});
  }
}

HubStore::~HubStore() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (checker_.joinable()) checker_.join();
}

void HubStore::add_whole(const RemoteEntry& entry) { link(entry.name, entry); }

void HubStore::add_parts(const RemoteEntry& entry) {
  if (!entry.is_checksum || !files_.status(data_path(blob(entry)))) return;
  const std::shared_ptr<Part> part = part_of(entry);
  const std::lock_guard lock(part->mutex);
  if (part->is_whole || !part->ranges.holds(0, entry.size_bytes)) return;
  part->is_whole = true;
  check_later(part);
}

std::shared_ptr<HubStore::Part> HubStore::part_of(const RemoteEntry& entry) {
  std::shared_ptr<Part> part;
  {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Part>& known = parts_[entry.version];
    if (!known) {
      auto opened = std::make_shared<Part>(entry);
      opened->open(files_, blob(entry));
      known = std::move(opened);
    }
    part = known;
  }
  const std::lock_guard lock(part->mutex);
  part->names.insert(entry.name);
  return part;
}

void HubStore::take(const RemoteEntry& entry, uint64_t offset, std::span<const std::byte> bytes) {
  if (!entry.is_checksum || bytes.empty()) return;  // nothing would prove it
  const std::shared_ptr<Part> part = part_of(entry);
  if (!part->begin_write()) return;
  try {
    part->data->write(offset, bytes);  // of different ranges at once
  } catch (...) {
    const std::lock_guard lock(part->mutex);
    --part->writers;
    throw;
  }
  if (part->end_write(offset, offset + bytes.size())) check_later(part);
}

bool HubStore::holds(const std::string& name, uint64_t begin, uint64_t end) {
  std::vector<std::shared_ptr<Part>> parts;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [checksum, part] : parts_) parts.push_back(part);
  }
  return std::ranges::any_of(parts, [&](const std::shared_ptr<Part>& part) {
    const std::lock_guard lock(part->mutex);
    return part->names.contains(name) && part->ranges.holds(begin, end);
  });
}

void HubStore::check_later(std::shared_ptr<Part> part) {
  const std::lock_guard lock(mutex_);
  to_check_.push_back(std::move(part));
  ++unchecked_;
  if (!checker_.joinable()) checker_ = start_thread([this] { check_all(); });
  changed_.notify_all();
}

void HubStore::check_all() {
  for (std::unique_lock lock(mutex_);;) {
    changed_.wait(lock, [this] { return stop_ || !to_check_.empty(); });
    if (stop_) return;
    const std::shared_ptr<Part> part = std::move(to_check_.front());
    to_check_.pop_front();
    lock.unlock();
    std::exception_ptr error;
    try {
      check(*part);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !error_) error_ = error;
    --unchecked_;
    changed_.notify_all();
  }
}

void HubStore::check(Part& part) {
  const RemoteEntry& entry = part.entry;
  const bool is_git = entry.version.size() == kSha1Digits;
  Digest digest(is_git ? Digest::Kind::kSha1 : Digest::Kind::kSha256);
  if (is_git) digest.add(fmt::format("blob {}", entry.size_bytes) + '\0');
  std::vector<std::byte> bytes(std::min(entry.size_bytes, kPieceBytes));
  for (uint64_t at = 0; at < entry.size_bytes; at += bytes.size()) {
    const auto piece = std::span(bytes).first(std::min<uint64_t>(bytes.size(), entry.size_bytes - at));
    part.data->read(at, piece);
    digest.add(piece);
    const std::lock_guard lock(mutex_);
    if (stop_) return;
  }
  const std::string found = digest.hex();
  if (found != entry.version) {
    files_.remove(data_path(blob(entry)));
    files_.remove(notes_path(blob(entry)));
    throw Error(ErrorKind::kBadInput, {.file = (folder_ / "snapshots" / commit_ / entry.name).string()},
                "what arrived is not what the Hub has, or was damaged on the disk: its checksum is another",
                {.expected = entry.version,
                 .found = found,
                 .hint = "it was removed; what was made of it is to be held against the source: nibblecast "
                         "verify SRC DST"});
  }
  part.data->sync();
  part.data->close();
  files_.rename(data_path(blob(entry)), blob(entry));
  files_.sync_folder(folder_ / "blobs");
  std::set<std::string> names;
  {
    const std::lock_guard lock(part.mutex);
    names = part.names;
  }
  for (const std::string& name : names) link(name, entry);
  files_.remove(notes_path(blob(entry)));
  const std::lock_guard lock(mutex_);
  ++report_.files;
  report_.bytes += entry.size_bytes;
  parts_.erase(entry.version);
}

// Relative, as the Hub's client makes it, so that the cache may be moved.
void HubStore::link(const std::string& name, const RemoteEntry& entry) {
  const Path place = folder_ / "snapshots" / commit_ / name;
  files_.create_folders(place.parent_path());
  std::error_code error;
  if (std::filesystem::is_symlink(place, error) || files_.status(place)) return;
  std::filesystem::create_symlink(blob(entry).lexically_relative(place.parent_path()), place, error);
  if (error) {
    throw Error(ErrorKind::kIo, {.file = place.string()}, "cannot make a link: " + error.message());
  }
  files_.sync_folder(place.parent_path());
}

void HubStore::note_reference() {
  const Path path = folder_ / "refs" / reference_;
  if (reference_.empty() || !Path(reference_).is_relative() ||
      Path(reference_).lexically_normal() != reference_ || *Path(reference_).begin() == "..")
    return;
  files_.create_folders(path.parent_path());
  write_text_durably(files_, path, commit_);
}

HubStore::Report HubStore::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return unchecked_ == 0; });
  if (error_) std::rethrow_exception(error_);
  Report report = report_;
  const std::map<std::string, std::shared_ptr<Part>> parts = parts_;
  lock.unlock();
  for (const auto& [checksum, part] : parts) {
    const std::lock_guard part_lock(part->mutex);
    report.partial.push_back({part->entry.name, part->ranges.bytes(), part->entry.size_bytes});
  }
  std::ranges::sort(report.partial, {}, &Partial::name);
  if (report.partial.empty()) note_reference();
  return report;
}

}  // namespace nibblecast
