#include "faults/faulty_files.h"

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "base/descriptor.h"

namespace nibblecast::testing {
namespace {

constexpr const char* kOperationNames[] = {
    "open",   "create", "read",           "write",  "size",   "resize", "reserve",     "sync", "close",
    "status", "list",   "create folders", "rename", "remove", "copy",   "sync folder", "disk", "lock"};
static_assert(std::size(kOperationNames) == kOperations);

constexpr const char* kFailureNames[] = {"EIO", "ENOSPC", "EDQUOT", "one byte", "half", "vanished", "crash"};
static_assert(std::size(kFailureNames) == kFailures);

bool may_need_space(Operation operation) {
  switch (operation) {
    case Operation::kCreate:
    case Operation::kWrite:
    case Operation::kSetSize:
    case Operation::kReserve:
    case Operation::kSync:
    case Operation::kClose:
    case Operation::kCreateFolders:
    case Operation::kRename:
    case Operation::kCopy:
    case Operation::kSyncFolder:
    case Operation::kTryLock:
      return true;
    default:
      return false;
  }
}

bool failure_leaves_half(Operation operation) {
  return operation == Operation::kWrite || operation == Operation::kCopy || operation == Operation::kRemove;
}

bool lasts(Failure failure) {
  return failure == Failure::kEnospc || failure == Failure::kEdquot || failure == Failure::kVanished ||
         failure == Failure::kCrash;
}

}  // namespace

const char* operation_name(Operation operation) { return kOperationNames[static_cast<size_t>(operation)]; }
const char* failure_name(Failure failure) { return kFailureNames[static_cast<size_t>(failure)]; }

bool can_fail(Operation operation, Failure failure) {
  switch (failure) {
    case Failure::kEnospc:
    case Failure::kEdquot:
      return may_need_space(operation);
    case Failure::kOneByte:
    case Failure::kHalf:
      return operation == Operation::kRead || operation == Operation::kWrite;
    default:
      return true;
  }
}

class FaultyFiles::OpenFile : public File {
 public:
  // `writable`: a full disk is no matter to the others.
  OpenFile(FaultyFiles& files, std::unique_ptr<File> file, bool writable)
      : File(file->path()), files_(files), file_(std::move(file)), writable_(writable) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const Verdict verdict = files_.judge(Operation::kRead, path(), offset);
    if (verdict == Verdict::kFail) files_.fail(Operation::kRead, path(), offset);
    return file_->read_some(offset, to.first(transferred(verdict, to.size())));
  }

  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    const Verdict verdict = files_.judge(Operation::kWrite, path(), offset);
    if (verdict == Verdict::kFail) files_.fail(Operation::kWrite, path(), offset);
    const size_t done = file_->write_some(offset, from.first(transferred(verdict, from.size())));
    if (verdict == Verdict::kHalfThenFail) files_.fail(Operation::kWrite, path(), offset);
    return done;
  }

  uint64_t size() override {
    files_.pass(Operation::kSize, path());
    return file_->size();
  }
  void set_size(uint64_t size_bytes) override {
    files_.pass(Operation::kSetSize, path());
    file_->set_size(size_bytes);
  }
  void reserve(uint64_t size_bytes) override {
    files_.pass(Operation::kReserve, path());
    file_->reserve(size_bytes);
  }
  void sync() override {
    files_.pass(Operation::kSync, path());
    file_->sync();
  }
  void close() override {
    if (writable_) files_.pass(Operation::kClose, path());
    file_->close();
  }
  std::optional<FileStamp> stamp() override { return file_->stamp(); }

 private:
  static size_t transferred(Verdict verdict, size_t size) {
    if (verdict == Verdict::kOneByte) return std::min<size_t>(size, 1);
    return verdict == Verdict::kPass ? size : (size + 1) / 2;
  }

  FaultyFiles& files_;
  const std::unique_ptr<File> file_;
  const bool writable_;
};

uint64_t FaultyFiles::count() const {
  const std::lock_guard lock(mutex_);
  return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0});
}

uint64_t FaultyFiles::count(Operation operation) const {
  const std::lock_guard lock(mutex_);
  return counts_[static_cast<size_t>(operation)];
}

std::optional<std::string> FaultyFiles::hit() const {
  const std::lock_guard lock(mutex_);
  return hit_.empty() ? std::nullopt : std::optional(hit_);
}

FaultyFiles::Verdict FaultyFiles::judge(Operation operation, const std::string& what,
                                        std::optional<uint64_t> offset) {
  const std::lock_guard lock(mutex_);
  const bool matches = !fault_.operation || *fault_.operation == operation;
  const uint64_t at = fault_.operation ? counts_[static_cast<size_t>(operation)]
                                       : std::accumulate(counts_.begin(), counts_.end(), uint64_t{0});
  ++counts_[static_cast<size_t>(operation)];
  const bool first = matches && at == fault_.n;
  const bool again = struck_ && lasts(fault_.failure);
  if ((!first && !again) || !can_fail(operation, fault_.failure)) return Verdict::kPass;
  if (first) {
    struck_ = true;
    hit_ = std::string(operation_name(operation)) + " " + what;
    if (offset) hit_ += " at " + std::to_string(*offset);
  }
  if (fault_.failure == Failure::kOneByte) return Verdict::kOneByte;
  if (fault_.failure == Failure::kHalf) return Verdict::kHalf;
  return first && failure_leaves_half(operation) ? Verdict::kHalfThenFail : Verdict::kFail;
}

void FaultyFiles::fail(Operation operation, const std::string& path, std::optional<uint64_t> offset) const {
  if (fault_.failure == Failure::kCrash) throw ProcessDied();
  const int error = fault_.failure == Failure::kEnospc   ? ENOSPC
                    : fault_.failure == Failure::kEdquot ? EDQUOT
                                                         : EIO;
  throw_system_error(path, operation_name(operation), error, offset);
}

void FaultyFiles::pass(Operation operation, const Path& path) {
  if (judge(operation, path.string()) != Verdict::kPass) fail(operation, path.string());
}

std::unique_ptr<File> FaultyFiles::open(const Path& path, Access access) {
  const bool writable = access != Access::kRead && access != Access::kReadDirect;
  pass(writable && access != Access::kUpdateDirect ? Operation::kCreate : Operation::kOpen, path);
  return std::make_unique<OpenFile>(*this, files_.open(path, access), writable);
}

std::optional<FileStatus> FaultyFiles::status(const Path& path) {
  pass(Operation::kStatus, path);
  return files_.status(path);
}

std::vector<std::string> FaultyFiles::list(const Path& folder) {
  pass(Operation::kList, folder);
  return files_.list(folder);
}

void FaultyFiles::create_folders(const Path& folder) {
  pass(Operation::kCreateFolders, folder);
  files_.create_folders(folder);
}

void FaultyFiles::rename(const Path& from, const Path& to) {
  pass(Operation::kRename, to);
  files_.rename(from, to);
}

void FaultyFiles::remove(const Path& path) {
  const Verdict verdict = judge(Operation::kRemove, path.string());
  if (verdict == Verdict::kHalfThenFail && files_.status(path) && files_.status(path)->is_folder) {
    const std::vector<std::string> names = files_.list(path);
    for (size_t index = 0; index < (names.size() + 1) / 2; ++index) files_.remove(path / names[index]);
  }
  if (verdict != Verdict::kPass) fail(Operation::kRemove, path.string());
  files_.remove(path);
}

void FaultyFiles::copy(const Path& from, const Path& to) {
  const Verdict verdict = judge(Operation::kCopy, to.string());
  if (verdict == Verdict::kHalfThenFail && !files_.status(to)) {
    const std::string text = read_text(files_, from, std::numeric_limits<uint64_t>::max());
    files_.open(to, Access::kCreate)->write(0, std::as_bytes(std::span(text)).first(text.size() / 2));
  }
  if (verdict != Verdict::kPass) fail(Operation::kCopy, to.string());
  files_.copy(from, to);
}

void FaultyFiles::sync_folder(const Path& folder) {
  pass(Operation::kSyncFolder, folder);
  files_.sync_folder(folder);
}

Disk FaultyFiles::disk(const Path& path) {
  pass(Operation::kDisk, path);
  return files_.disk(path);
}

std::unique_ptr<FileLock> FaultyFiles::try_lock(const Path& path, std::string_view holder) {
  pass(Operation::kTryLock, path);
  return files_.try_lock(path, holder);
}

}  // namespace nibblecast::testing
