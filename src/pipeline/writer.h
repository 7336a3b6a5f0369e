// pipeline/writer.h - positioned writes to several files, behind the back of whoever makes the bytes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/file.h"
#include "pipeline/buffer_pool.h"
#include "pipeline/file_range.h"
#include "pipeline/io_threads.h"

namespace nibblecast {

class Writer {
 public:
  // Memory for the bytes of several ranges, one span a range in the given order.
  class Batch {
   public:
    std::span<std::byte> operator[](size_t range) const {
      return buffer_.bytes().subspan(starts_[range], ranges_[range].size_bytes);
    }

   private:
    friend class Writer;
    std::vector<FileRange> ranges_;
    std::vector<size_t> starts_;  // in buffer_, each at the range's place within its first page
    Buffer buffer_;
  };

  // `memory_bytes` bounds the batches taken and not yet written (one batch may exceed it).
  Writer(std::vector<std::unique_ptr<File>> files, uint64_t memory_bytes);
  // Waits for what is under way; drops the rest.
  ~Writer();

  // Waits while too much is under way; a caller holds one batch at a time. Rethrows an earlier write's error.
  // Not thread-safe.
  Batch take(std::vector<FileRange> ranges);
  // Ranges must not overlap. Whole pages are written directly, parts of a page through the page cache.
  // Returns the batch's number: 1, 2, 3...
  uint64_t submit(Batch batch);
  // The largest n such that batches 1 to n are in the files (not yet synced). Thread-safe.
  uint64_t written_batches() const;
  // Submitted, and not yet in the files. Thread-safe.
  uint64_t pending_bytes() const;
  // Everything submitted is in the files (not yet synced), or the first error is thrown.
  void wait();

  File& file(uint32_t index) { return *files_[index]; }
  uint64_t written_bytes() const { return submitted_bytes_; }
  // In which take() and wait() had to wait. For their caller.
  double wait_seconds() const { return wait_seconds_; }

 private:
  struct Submitted;  // a batch under way

  void settle(Submitted& batch);  // none of its requests is left; mutex_ is held
  void rethrow_error();

  std::vector<std::unique_ptr<File>> files_;
  BufferPool pool_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  size_t under_way_ = 0;                              // requests
  std::deque<std::shared_ptr<Submitted>> submitted_;  // the oldest is not yet written
  uint64_t written_batches_ = 0;
  uint64_t submitted_bytes_ = 0, pending_bytes_ = 0;
  double wait_seconds_ = 0;
  std::exception_ptr error_;
  IoThreads threads_;  // last: its threads end before what they use
};

}  // namespace nibblecast
