#include "pipeline/verify_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "pipeline/io_threads.h"
#include "pipeline/reader.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr const char* kMetadataFolder = ".cache/huggingface/download";
constexpr std::string_view kMetadataSuffix = ".metadata";
constexpr uint64_t kMetadataLimit = 64 << 10;
constexpr size_t kSha1Digits = 40, kSha256Digits = 64;
constexpr size_t kMostThreads = 16;
constexpr auto kTick = std::chrono::milliseconds(100);

bool is_checksum(std::string_view text) {
  return (text.size() == kSha1Digits || text.size() == kSha256Digits) &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The blob's name, where `path` is a link into a cache. Only the name is looked up; the file is not touched.
std::string cached_checksum(const Path& path) {
  std::error_code not_a_link;
  const Path target = std::filesystem::read_symlink(path, not_a_link);
  const std::string name = target.filename().string();
  return target.parent_path().filename() == "blobs" && is_checksum(name) ? name : "";
}

// The second line of what `hf download` noted of a file.
std::string noted_checksum(FileSystem& files, const Path& metadata) {
  if (!files.status(metadata)) return "";
  const std::string text = read_text(files, metadata, kMetadataLimit);
  const size_t begin = text.find('\n');
  if (begin == std::string::npos) return "";
  const std::string line = text.substr(begin + 1, text.find('\n', begin + 1) - begin - 1);
  return is_checksum(line) ? line : "";
}

struct Published {
  std::string name;  // relative to the folder
  uint64_t size_bytes = 0;
  std::string checksum;
};

class SourceCheck {
 public:
  SourceCheck(const Path& folder, FileSystem& files, const VerifyOptions& options)
      : folder_(folder), is_on_hub_(!hub_id_of_address(folder).empty()), files_(files), options_(options) {}

  SourceReport check() {
    list("");
    list_missing("");
    // The largest first, so that none is left over at the end.
    std::ranges::stable_sort(published_, std::greater{}, &Published::size_bytes);
    is_address(folder_) ? compare_streamed() : compare_all();
    std::ranges::sort(report_.problems);
    return std::move(report_);
  }

 private:
  // `inside`: relative to the folder.
  void list(const Path& inside) {
    for (const std::string& name : files_.list(folder_ / inside)) {
      if (name.starts_with('.')) continue;
      const Path file = (inside / name).lexically_normal();
      const auto status = files_.status(folder_ / file);
      if (status && status->is_folder) {
        list(file);
        continue;
      }
      seen_.insert(file.string());
      if (status)
        add(file.string(), *status);
      else
        report_.problems.push_back(file.string() + ": leads nowhere: what it links to is missing");
    }
  }

  void add(const std::string& file, const FileStatus& status) {
    const std::string checksum = checksum_known_of(file, status);
    if (checksum.empty()) {
      report_.unchecked.push_back(file);
      return;
    }
    total_ += status.size_bytes;
    published_.push_back({file, status.size_bytes, checksum});
  }

  // Empty: none.
  std::string checksum_known_of(const std::string& file, const FileStatus& status) const {
    if (is_address(folder_)) return is_on_hub_ && is_checksum(status.version) ? status.version : "";
    const std::string cached = cached_checksum(folder_ / file);
    if (!cached.empty()) return cached;
    return noted_checksum(files_, folder_ / kMetadataFolder / (file + std::string(kMetadataSuffix)));
  }

  // Files that were downloaded into the folder, by their notes, and are not there.
  void list_missing(const Path& inside) {
    const Path notes = folder_ / kMetadataFolder / inside;
    if (!files_.status(notes)) return;
    for (const std::string& name : files_.list(notes)) {
      const Path note = (inside / name).lexically_normal();
      const auto status = files_.status(notes / name);
      if (status && status->is_folder) {
        list_missing(note);
        continue;
      }
      if (!name.ends_with(kMetadataSuffix)) continue;
      const std::string file = note.string().substr(0, note.string().size() - kMetadataSuffix.size());
      const bool hidden = file.starts_with('.') || file.find("/.") != std::string::npos;
      if (!hidden && !seen_.contains(file))
        report_.problems.push_back(file + ": is missing, though it was downloaded");
    }
  }

  // Over a line: one after the other, with as many requests under way as a run has.
  void compare_streamed() {
    std::vector<std::unique_ptr<File>> files;
    std::vector<ReadUnit> units;
    for (const Published& file : published_) {
      for (uint64_t at = 0; at < file.size_bytes; at += kIoRequestBytes)
        units.push_back({{.file = static_cast<uint32_t>(files.size()),
                          .begin = at,
                          .size_bytes = std::min<uint64_t>(kIoRequestBytes, file.size_bytes - at)}});
      files.push_back(files_.open(folder_ / file.name, Access::kReadDirect));
    }
    Reader reader(std::move(files), std::move(units), options_.memory_bytes);
    for (const Published& file : published_) {
      Digest digest = begun_digest(file);
      for (uint64_t at = 0; at < file.size_bytes; at += kIoRequestBytes) {
        const Reader::Loaded piece = reader.next();
        digest.add(piece[0]);
        done_ += piece[0].size();
        if (options_.progress) options_.progress(progress(report_.files));
      }
      note(file, difference(file, digest.hex()));
    }
  }

  Progress progress(size_t finished) const {
    return {.stage = "source",
            .stages_done = finished,
            .stages = published_.size(),
            .bytes_done = done_,
            .bytes = total_};
  }

  static Digest begun_digest(const Published& file) {
    const bool whole = file.checksum.size() == kSha256Digits;
    Digest digest(whole ? Digest::Kind::kSha256 : Digest::Kind::kSha1);
    if (!whole) digest.add(fmt::format("blob {}", file.size_bytes) + '\0');
    return digest;
  }

  // Empty: none.
  static std::string difference(const Published& file, const std::string& found) {
    if (found == file.checksum) return {};
    return fmt::format("is damaged: the Hub has {}, this file gives {}", file.checksum, found);
  }

  void note(const Published& file, const std::string& problem) {
    const std::lock_guard lock(mutex_);
    ++report_.files;
    report_.bytes += file.size_bytes;
    if (!problem.empty()) report_.problems.push_back(file.name + ": " + problem);
  }

  void compare_all() {
    const size_t room = std::max<uint64_t>(1, options_.memory_bytes / kIoRequestBytes);
    IoThreads threads(std::min({kMostThreads, room, std::max<size_t>(published_.size(), 1)}));
    for (const Published& file : published_) {
      threads.submit([this, &file] {
        if (!stop_) compare(file);
        const std::lock_guard lock(mutex_);
        ++finished_;
        wake_.notify_one();
      });
    }
    try {
      wait();
    } catch (...) {
      stop_ = true;
      throw;
    }
  }

  void wait() {
    std::unique_lock lock(mutex_);
    while (finished_ < published_.size()) {
      wake_.wait_for(lock, kTick);
      if (!options_.progress) continue;
      const size_t finished = finished_;
      lock.unlock();
      options_.progress(progress(finished));
      lock.lock();
    }
  }

  // On a thread of its own.
  void compare(const Published& file) {
    std::string problem;
    try {
      const std::optional<std::string> found = checksum_of(file);
      if (!found) return;
      problem = difference(file, *found);
    } catch (const Error& error) {
      problem = fmt::format("cannot be checked: {}", error.what());
    }
    note(file, problem);
  }

  // nullopt: stopped.
  std::optional<std::string> checksum_of(const Published& file) {
    Digest digest = begun_digest(file);
    const std::unique_ptr<File> opened = files_.open(folder_ / file.name, Access::kReadDirect);
    const Buffer buffer(kIoRequestBytes);
    for (uint64_t at = 0; at < file.size_bytes && !stop_;) {
      const auto piece = buffer.bytes().first(std::min<uint64_t>(kIoRequestBytes, file.size_bytes - at));
      opened->read(at, piece);
      digest.add(piece);
      at += piece.size();
      done_ += piece.size();
    }
    if (stop_) return std::nullopt;
    return digest.hex();
  }

  const Path folder_;
  const bool is_on_hub_;
  FileSystem& files_;
  const VerifyOptions& options_;
  std::vector<Published> published_;
  std::set<std::string> seen_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> done_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;  // of what follows, while threads run
  std::condition_variable wake_;
  size_t finished_ = 0;
  SourceReport report_;
};

}  // namespace

SourceReport verify_source(const Path& folder, FileSystem& files, const VerifyOptions& options) {
  const auto status = files.status(folder);
  if (!status || !status->is_folder)
    throw Error(ErrorKind::kBadInput, {.file = folder.string()}, "is no folder");
  return SourceCheck(folder, files, options).check();
}

}  // namespace nibblecast
