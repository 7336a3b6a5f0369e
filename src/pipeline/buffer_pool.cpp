#include "pipeline/buffer_pool.h"

#include <algorithm>
#include <utility>

namespace nibblecast {

Buffer BufferPool::take(size_t size_bytes) {
  std::unique_lock lock(mutex_);
  returned_.wait(lock, [&] { return has_room(size_bytes); });
  return reuse_or_allocate(size_bytes);
}

Buffer BufferPool::try_take(size_t size_bytes) {
  const std::lock_guard lock(mutex_);
  return has_room(size_bytes) ? reuse_or_allocate(size_bytes) : Buffer();
}

void BufferPool::give_back(Buffer buffer) {
  if (!buffer) return;
  {
    const std::lock_guard lock(mutex_);
    used_bytes_ -= buffer.size();
    idle_bytes_ += buffer.size();
    idle_.push_back(std::move(buffer));
  }
  returned_.notify_all();
}

// The smallest idle buffer that is large enough but not wastefully so; else a new one, idle ones making room.
Buffer BufferPool::reuse_or_allocate(size_t size_bytes) {
  auto best = idle_.end();
  for (auto it = idle_.begin(); it != idle_.end(); ++it) {
    const bool fits = it->size() >= size_bytes && it->size() / 2 <= size_bytes;
    if (fits && (best == idle_.end() || it->size() < best->size())) best = it;
  }
  if (best != idle_.end()) {
    Buffer buffer = std::move(*best);
    idle_.erase(best);
    idle_bytes_ -= buffer.size();
    used_bytes_ += buffer.size();
    return buffer;
  }
  while (!idle_.empty() && used_bytes_ + idle_bytes_ + size_bytes > budget_bytes_) {
    idle_bytes_ -= idle_.front().size();
    idle_.pop_front();
  }
  Buffer buffer = allocate_ == nullptr ? Buffer(size_bytes) : allocate_(size_bytes);
  used_bytes_ += size_bytes;
  return buffer;
}

}  // namespace nibblecast
