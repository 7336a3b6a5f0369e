#include "pipeline/writer.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace nibblecast {
namespace {

constexpr size_t kThreads = 4;
constexpr uint64_t kRequestBytes = 8 << 20;

}  // namespace

Writer::Writer(std::vector<std::unique_ptr<File>> files, uint64_t memory_bytes)
    : files_(std::move(files)), pool_(memory_bytes), threads_(kThreads) {}

Writer::~Writer() = default;

Writer::Segment Writer::segment(uint32_t file, uint64_t offset, uint64_t size_bytes) {
  rethrow_error();
  Segment segment;
  segment.file_ = file;
  segment.offset_ = offset;
  segment.size_bytes_ = size_bytes;
  segment.pad_ = offset % kDirectAlignment;
  segment.buffer_ = pool_.take(round_up(segment.pad_ + size_bytes, kDirectAlignment));
  return segment;
}

void Writer::submit(Segment segment) {
  struct Request {
    uint64_t offset;
    std::span<const std::byte> from;
  };
  const std::span<const std::byte> bytes = segment.bytes();
  const uint64_t begin = segment.offset_, end = begin + bytes.size();
  std::vector<Request> requests;
  const auto add = [&](uint64_t from, uint64_t to) {
    if (from < to) requests.push_back({from, bytes.subspan(from - begin, to - from)});
  };
  const uint64_t first_page = std::min(round_up(begin, kDirectAlignment), end);
  const uint64_t last_page = std::max(round_down(end, kDirectAlignment), first_page);
  add(begin, first_page);
  for (uint64_t offset = first_page; offset < last_page; offset += kRequestBytes) {
    add(offset, std::min(offset + kRequestBytes, last_page));
  }
  add(last_page, end);
  submitted_bytes_ += bytes.size();

  File* const file = files_[segment.file_].get();
  const auto left = std::make_shared<std::atomic<size_t>>(requests.size());
  const auto buffer = std::make_shared<Buffer>(std::move(segment.buffer_));
  if (requests.empty()) pool_.give_back(std::move(*buffer));
  {
    const std::lock_guard lock(mutex_);
    under_way_ += requests.size();
  }
  for (const Request& request : requests) {
    threads_.submit([this, file, request, left, buffer] {
      std::exception_ptr error;
      try {
        file->write(request.offset, request.from);
      } catch (...) {
        error = std::current_exception();
      }
      if (--*left == 0) pool_.give_back(std::move(*buffer));
      const std::lock_guard lock(mutex_);
      if (error && !error_) error_ = error;
      if (--under_way_ == 0) done_.notify_all();
    });
  }
}

void Writer::wait() {
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return under_way_ == 0; });
  }
  rethrow_error();
}

void Writer::rethrow_error() {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

}  // namespace nibblecast
