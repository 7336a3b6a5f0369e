#include "faults/watched_files.h"

#include <csignal>
#include <cstdlib>
#include <ctime>

namespace nibblecast::testing {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;

uint64_t now_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecondNs + static_cast<uint64_t>(now.tv_nsec);
}

void die_in(uint64_t delay_ns) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer = {};
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) std::abort();
  const uint64_t delay = delay_ns + 1;  // 0 would disarm it
  itimerspec at = {};
  at.it_value = {static_cast<time_t>(delay / kSecondNs), static_cast<long>(delay % kSecondNs)};
  if (::timer_settime(timer, 0, &at, nullptr) != 0) std::abort();
}

bool is_shard(const std::string& name) {
  return name.starts_with("model-") && name.ends_with(".safetensors.partial");
}

}  // namespace

const char* doing_name(Doing doing) {
  static constexpr const char* kNames[kDoings] = {"begin",        "read",           "forward", "cast",
                                                  "state saving", "journal append", "finish",  "rename",
                                                  "documents",    "config.json",    "end"};
  return kNames[static_cast<size_t>(doing)];
}

// Notes appends to the journal, and what is written to shards.
class WatchedFiles::OpenFile : public File {
 public:
  OpenFile(WatchedFiles& files, std::unique_ptr<File> file, const std::string& name)
      : File(file->path()),
        files_(files),
        file_(std::move(file)),
        is_journal_(name == "journal"),
        is_shard_(is_shard(name)) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override { return file_->read_some(offset, to); }
  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    if (is_journal_) begin_append();
    const size_t written = file_->write_some(offset, from);
    if (is_shard_) files_.watch_.shard_bytes_written += written;
    return written;
  }
  uint64_t size() override { return file_->size(); }
  void set_size(uint64_t size_bytes) override { file_->set_size(size_bytes); }
  void reserve(uint64_t size_bytes) override { file_->reserve(size_bytes); }
  // An append ends when it is durable; the journal has one at a time.
  void sync() override {
    file_->sync();
    if (!is_journal_ || !appending_) return;
    appending_ = false;
    --files_.watch_.appends;
    files_.ended(Doing::kJournal, since_ns_);
  }
  void close() override { file_->close(); }
  std::optional<FileStamp> stamp() override { return file_->stamp(); }

 private:
  void begin_append() {
    if (appending_) return;
    appending_ = true;
    since_ns_ = now_ns();
    ++files_.watch_.appends;
    files_.begun(Doing::kJournal);
  }

  WatchedFiles& files_;
  std::unique_ptr<File> file_;
  const bool is_journal_, is_shard_;
  bool appending_ = false;
  uint64_t since_ns_ = 0;
};

WatchedFiles::WatchedFiles(FileSystem& files, Watch& watch, const Path& destination, std::optional<Aim> aim)
    : files_(files), watch_(watch), destination_(destination), aim_(aim), turned_ns_(now_ns()) {
  begun(Doing::kBegin);
  if (aim_ && !aim_->doing) die_in(aim_->delay_ns);
}

void WatchedFiles::turn_to(Doing doing) {
  if (doing == watch_.doing) return;
  const uint64_t since_ns = turned_ns_;
  turned_ns_ = now_ns();
  ended(watch_.doing.exchange(doing), since_ns);
  begun(doing);
}

void WatchedFiles::begun(Doing doing) {
  const uint64_t n = ++watch_.count[static_cast<size_t>(doing)];
  if (aim_ && aim_->doing == doing && aim_->n == n) die_in(aim_->delay_ns);
}

void WatchedFiles::ended(Doing doing, uint64_t since_ns) {
  watch_.times[static_cast<size_t>(doing)] += now_ns() - since_ns;
}

std::unique_ptr<File> WatchedFiles::open(const Path& path, Access access) {
  const std::string name = path.filename().string();
  if (path.parent_path() == destination_ && access == Access::kCreate) {
    turn_to(name == "config.json.partial" ? Doing::kConfig : Doing::kDocuments);
  }
  return std::make_unique<OpenFile>(*this, files_.open(path, access), name);
}

void WatchedFiles::rename(const Path& from, const Path& to) {
  if (is_shard(from.filename().string())) turn_to(Doing::kRename);
  files_.rename(from, to);
}

void WatchedFiles::remove(const Path& path) {
  if (watch_.doing == Doing::kConfig) turn_to(Doing::kEnd);
  files_.remove(path);
}

void WatchedFiles::sync_folder(const Path& folder) {
  files_.sync_folder(folder);
  if (watch_.doing == Doing::kRename) turn_to(Doing::kFinish);
}

}  // namespace nibblecast::testing
