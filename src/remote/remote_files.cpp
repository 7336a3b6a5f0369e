#include "remote/remote_files.h"

#include <algorithm>

#include "base/error.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

constexpr uint64_t kCopyBytes = 8 << 20;

// Without the second slash of "://", and none at the end.
std::string normal_text(const std::filesystem::path& path) {
  std::string text = path.lexically_normal().string();
  while (text.ends_with('/')) text.pop_back();
  return text;
}

}  // namespace

RemoteFolder& RemoteFiles::mount(std::unique_ptr<RemoteFolder> folder) {
  const std::lock_guard lock(mutex_);
  return *folders_.emplace_back(normal_text(folder->address()), std::move(folder)).second;
}

RemoteFiles::Place RemoteFiles::place_of(const Path& path) {
  if (!is_address(path)) return {};
  const std::string text = normal_text(path);
  const std::lock_guard lock(mutex_);
  for (auto folder = folders_.rbegin(); folder != folders_.rend(); ++folder) {
    if (!text.starts_with(folder->first)) continue;
    if (text.size() == folder->first.size()) return {folder->second.get(), ""};
    if (text[folder->first.size()] == '/')
      return {folder->second.get(), text.substr(folder->first.size() + 1)};
  }
  return {};
}

const RemoteFiles::Path& RemoteFiles::local_path(const Path& path) {
  if (place_of(path).folder == nullptr) return path;
  throw Error(ErrorKind::kRefused, {.file = path.string()}, "is on a server, which is never written to");
}

std::unique_ptr<File> RemoteFiles::open(const Path& path, Access access) {
  const Place place = place_of(path);
  return place.folder == nullptr ? local_.open(path, access) : place.folder->open(place.name, access);
}

std::optional<FileStatus> RemoteFiles::status(const Path& path) {
  const Place place = place_of(path);
  return place.folder == nullptr ? local_.status(path) : place.folder->status(place.name);
}

std::vector<std::string> RemoteFiles::list(const Path& folder) {
  const Place place = place_of(folder);
  return place.folder == nullptr ? local_.list(folder) : place.folder->list(place.name);
}

void RemoteFiles::create_folders(const Path& folder) { local_.create_folders(local_path(folder)); }

void RemoteFiles::rename(const Path& from, const Path& to) {
  local_.rename(local_path(from), local_path(to));
}

void RemoteFiles::remove(const Path& path) { local_.remove(local_path(path)); }

void RemoteFiles::copy(const Path& from, const Path& to) {
  if (place_of(from).folder == nullptr) return local_.copy(from, local_path(to));
  const auto in = open(from, Access::kReadDirect);
  if (local_.status(local_path(to)))
    throw Error(ErrorKind::kIo, {.file = to.string()}, "is there already, and nothing is copied over it");
  const auto out = local_.open(to, Access::kCreate);
  const uint64_t size = in->size();
  std::vector<std::byte> bytes(std::min(size, kCopyBytes));
  for (uint64_t at = 0; at < size; at += bytes.size()) {
    const std::span piece = std::span(bytes).first(std::min<uint64_t>(bytes.size(), size - at));
    in->read(at, piece);
    out->write(at, piece);
  }
  out->sync();
  out->close();
}

void RemoteFiles::sync_folder(const Path& folder) { local_.sync_folder(local_path(folder)); }

RemoteFiles::Path RemoteFiles::real_path(const Path& path) {
  return place_of(path).folder == nullptr ? local_.real_path(path) : Path(normal_text(path));
}

Disk RemoteFiles::disk(const Path& path) { return local_.disk(is_address(path) ? Path(".") : path); }

std::unique_ptr<File> RemoteFiles::open_unnamed(const Path& path) {
  return local_.open_unnamed(is_address(path) ? Path(".") : path);
}

std::unique_ptr<FileLock> RemoteFiles::try_lock(const Path& path, std::string_view holder) {
  return local_.try_lock(local_path(path), holder);
}

}  // namespace nibblecast
