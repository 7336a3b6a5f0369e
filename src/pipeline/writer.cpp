#include "pipeline/writer.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace nibblecast {

Writer::Writer(std::vector<std::unique_ptr<File>> files, uint64_t memory_bytes)
    : files_(std::move(files)), pool_(memory_bytes), threads_(kIoThreads) {}

Writer::~Writer() = default;

Writer::Batch Writer::take(std::vector<FileRange> ranges) {
  rethrow_error();
  Batch batch;
  size_t size = 0;
  for (const FileRange& range : ranges) {
    batch.starts_.push_back(size + range.begin % kDirectAlignment);
    size += range.padded_bytes();
  }
  batch.ranges_ = std::move(ranges);
  const auto start = std::chrono::steady_clock::now();
  batch.buffer_ = pool_.take(std::max(size, kDirectAlignment));
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return batch;
}

struct Writer::Submitted {
  Buffer buffer;
  uint64_t size_bytes = 0;
  size_t requests = 0;  // not yet done
  bool failed = false;
};

uint64_t Writer::submit(Batch batch) {
  struct Request {
    File* file;
    uint64_t offset;
    std::span<const std::byte> from;
  };
  std::vector<Request> requests;
  uint64_t size_bytes = 0;
  for (size_t index = 0; index < batch.ranges_.size(); ++index) {
    const FileRange& range = batch.ranges_[index];
    const auto add = [&](uint64_t from, uint64_t to) {
      if (from < to) {
        requests.push_back(
            {files_[range.file].get(), from, batch[index].subspan(from - range.begin, to - from)});
      }
    };
    const uint64_t first_page = std::min(round_up(range.begin, kDirectAlignment), range.end());
    const uint64_t last_page = std::max(round_down(range.end(), kDirectAlignment), first_page);
    add(range.begin, first_page);
    for (uint64_t offset = first_page; offset < last_page; offset += kIoRequestBytes) {
      add(offset, std::min(offset + kIoRequestBytes, last_page));
    }
    add(last_page, range.end());
    size_bytes += range.size_bytes;
  }
  submitted_bytes_ += size_bytes;
  const auto submitted = std::make_shared<Submitted>();
  submitted->size_bytes = size_bytes;
  submitted->buffer = std::move(batch.buffer_);
  submitted->requests = requests.size();
  uint64_t number;
  {
    const std::lock_guard lock(mutex_);
    under_way_ += requests.size();
    pending_bytes_ += size_bytes;
    submitted_.push_back(submitted);
    number = written_batches_ + submitted_.size();
    if (requests.empty()) settle(*submitted);
  }
  for (const Request& request : requests) {
    threads_.submit([this, request, submitted] {
      std::exception_ptr error;
      try {
        request.file->write(request.offset, request.from);
      } catch (...) {
        error = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      if (error && !error_) error_ = error;
      if (error) submitted->failed = true;
      if (--submitted->requests == 0) settle(*submitted);
      if (--under_way_ == 0) done_.notify_all();
    });
  }
  return number;
}

// A batch that failed keeps its place, so that nothing after it counts as written.
void Writer::settle(Submitted& batch) {
  pending_bytes_ -= batch.size_bytes;
  pool_.give_back(std::move(batch.buffer));
  while (!submitted_.empty() && submitted_.front()->requests == 0 && !submitted_.front()->failed) {
    submitted_.pop_front();
    ++written_batches_;
  }
}

uint64_t Writer::written_batches() const {
  const std::lock_guard lock(mutex_);
  return written_batches_;
}

uint64_t Writer::pending_bytes() const {
  const std::lock_guard lock(mutex_);
  return pending_bytes_;
}

void Writer::wait() {
  const auto start = std::chrono::steady_clock::now();
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return under_way_ == 0; });
  }
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  rethrow_error();
}

void Writer::rethrow_error() {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

}  // namespace nibblecast
