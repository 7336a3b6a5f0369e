// pipeline/buffer_pool.h - buffers that are used again: in steady state nothing is allocated, and memory
// stays within a budget.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>

#include "base/buffer.h"
#include "model/forward_pass.h"

namespace nibblecast {

// Thread-safe.
class BufferPool {
 public:
  // `allocate` makes new buffers; null: Buffer's own way.
  explicit BufferPool(uint64_t budget_bytes, BufferAllocator allocate = nullptr)
      : budget_bytes_(budget_bytes), allocate_(allocate) {}

  // Waits until the buffers in use leave room for `size_bytes` in the budget; a buffer larger than the whole
  // budget is given when no other is in use.
  Buffer take(size_t size_bytes);
  // nullopt-like (empty Buffer) instead of waiting.
  Buffer try_take(size_t size_bytes);
  void give_back(Buffer buffer);

 private:
  bool has_room(size_t size_bytes) const {
    return used_bytes_ == 0 || used_bytes_ + size_bytes <= budget_bytes_;
  }
  Buffer reuse_or_allocate(size_t size_bytes);

  const uint64_t budget_bytes_;
  const BufferAllocator allocate_;
  std::mutex mutex_;
  std::condition_variable returned_;
  uint64_t used_bytes_ = 0;  // handed out
  uint64_t idle_bytes_ = 0;  // in idle_
  std::list<Buffer> idle_;
};

}  // namespace nibblecast
