#include "pipeline/reader.h"

#include <algorithm>
#include <utility>

namespace nibblecast {
namespace {

uint64_t padded_bytes(const ReadUnit& unit) {
  uint64_t bytes = 0;
  for (const FileRange& range : unit) bytes += range.padded_bytes();
  return std::max<uint64_t>(bytes, kDirectAlignment);
}

bool has_remote(const std::vector<std::unique_ptr<File>>& files) {
  return std::ranges::any_of(files, [](const auto& file) { return file->is_remote(); });
}

size_t thread_count(const std::vector<std::unique_ptr<File>>& files, size_t threads) {
  return has_remote(files) ? std::max(threads, kRemoteThreads) : threads;
}

uint64_t request_bytes(size_t threads) {
  return std::max<uint64_t>(1 << 20, round_down(kIoThreads * kIoRequestBytes / threads, kDirectAlignment));
}

}  // namespace

struct Reader::Pending {
  Buffer buffer;
  std::vector<std::span<std::byte>> ranges;
  size_t requests = 0;  // under way
  std::exception_ptr error;
};

Reader::Reader(std::vector<std::unique_ptr<File>> files, std::vector<ReadUnit> units, uint64_t memory_bytes,
               size_t threads, BufferAllocator allocate)
    : files_(std::move(files)),
      units_(std::move(units)),
      request_bytes_(request_bytes(thread_count(files_, threads))),
      pool_(memory_bytes, allocate),
      threads_(thread_count(files_, threads)) {
  if (allocate != nullptr) {
    for (const ReadUnit& unit : units_)
      least_buffer_bytes_ = std::max(least_buffer_bytes_, padded_bytes(unit));
  }
  for (const auto& file : files_) file_sizes_.push_back(file->size());
  read_ahead();
}

Reader::~Reader() = default;

uint64_t Reader::buffer_bytes(const ReadUnit& unit) const {
  return std::max(least_buffer_bytes_, padded_bytes(unit));
}

void Reader::read_ahead() {
  while (begun_ < units_.size()) {
    Buffer buffer = pool_.try_take(buffer_bytes(units_[begun_]));
    if (!buffer) return;
    begin(units_[begun_++], std::move(buffer));
  }
}

void Reader::begin(const ReadUnit& unit, Buffer buffer) {
  struct Request {
    File* file;
    uint64_t offset;
    std::span<std::byte> to;
  };
  std::vector<Request> requests;
  const auto pending = std::make_shared<Pending>();
  std::byte* at = buffer.data();
  for (const FileRange& range : unit) {
    const uint64_t page = round_down(range.begin, kDirectAlignment);
    pending->ranges.emplace_back(at + (range.begin - page), range.size_bytes);
    File* const file = files_[range.file].get();
    const bool remote = file->is_remote();
    // Whole pages, but never past the end of the file; a last part of a page goes as a request of its own. Of
    // a server's file what is wanted and no byte more.
    const uint64_t end =
        remote ? range.end()
               : std::min(page + range.padded_bytes(), std::max(file_sizes_[range.file], range.end()));
    for (uint64_t offset = remote ? range.begin : page; offset < end;) {
      uint64_t size = std::min(request_bytes_, end - offset);
      if (size > kDirectAlignment && !remote) size = round_down(size, kDirectAlignment);
      requests.push_back({file, offset, {at + (offset - page), size}});
      offset += size;
    }
    at += range.padded_bytes();
  }
  pending->buffer = std::move(buffer);
  pending->requests = requests.size();
  pending_.push_back(pending);
  for (const Request& request : requests) {
    threads_.submit([this, pending, request] {
      std::exception_ptr error;
      try {
        request.file->read(request.offset, request.to);
      } catch (...) {
        error = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      if (error && !pending->error) pending->error = error;
      if (--pending->requests == 0) done_.notify_one();
    });
  }
}

Reader::Loaded Reader::next() {
  read_ahead();
  if (pending_.empty()) begin(units_[begun_], pool_.take(buffer_bytes(units_[begun_]))), ++begun_;
  const std::shared_ptr<Pending> pending = pending_.front();
  pending_.pop_front();
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return pending->requests == 0; });
  }
  Loaded loaded(pool_, std::move(pending->buffer), std::move(pending->ranges));
  if (pending->error) std::rethrow_exception(pending->error);
  return loaded;
}

}  // namespace nibblecast
