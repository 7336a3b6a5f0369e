// pipeline/reader.h - reads a known list of file ranges ahead of their use, with large direct requests.
#pragma once

#include <condition_variable>
#include <cstdint>
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

// Of files on a server, whose answers are slower to begin than a disk's, over connections that are each
// slower than the line.
inline constexpr size_t kRemoteThreads = 16;

// What is needed at once; its ranges land in one buffer.
using ReadUnit = std::vector<FileRange>;

class Reader {
 public:
  // The bytes of one unit, one span a range in the unit's order. Gives its memory back when destroyed; must
  // not outlive the reader.
  class Loaded {
   public:
    Loaded(BufferPool& pool, Buffer buffer, std::vector<std::span<std::byte>> ranges)
        : pool_(&pool), buffer_(std::move(buffer)), ranges_(std::move(ranges)) {}
    Loaded(Loaded&&) = default;
    Loaded& operator=(Loaded&&) = delete;
    ~Loaded() { pool_->give_back(std::move(buffer_)); }
    std::span<std::byte> operator[](size_t range) const { return ranges_[range]; }

   private:
    BufferPool* pool_;
    Buffer buffer_;
    std::vector<std::span<std::byte>> ranges_;
  };

  // Begins to read. As many bytes are under way whatever the number of threads, of which files on a server
  // get kRemoteThreads at least. `memory_bytes` bounds the units read and not yet given back (one unit may
  // exceed it). With an allocator, whose memory is costly to make, all buffers are as large as the largest
  // unit, so that each serves all.
  Reader(std::vector<std::unique_ptr<File>> files, std::vector<ReadUnit> units, uint64_t memory_bytes,
         size_t threads = kIoThreads, BufferAllocator allocate = nullptr);
  ~Reader();

  // Units in their order; of those before, so many must have been destroyed, or be by another thread, that
  // this one has room. Rethrows the error of the read that failed. Not thread-safe.
  Loaded next();

 private:
  struct Pending;  // a unit under way

  uint64_t buffer_bytes(const ReadUnit& unit) const;
  void read_ahead();
  void begin(const ReadUnit& unit, Buffer buffer);

  std::vector<std::unique_ptr<File>> files_;
  std::vector<uint64_t> file_sizes_;
  std::vector<ReadUnit> units_;
  uint64_t least_buffer_bytes_ = 0;
  const uint64_t request_bytes_;
  size_t begun_ = 0;
  BufferPool pool_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<std::shared_ptr<Pending>> pending_;
  IoThreads threads_;  // last: its threads end before what they use
};

}  // namespace nibblecast
