// base/arena.h - pieces of one block of memory, handed out once and never given back one by one.
//
// Without a block an Arena only counts, so that the code that lays buffers out also says what they take.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/buffer.h"

namespace nibblecast {

class Arena {
 public:
  static constexpr size_t kAlignment = 256;  // what CUDA's own allocations have

  explicit Arena(std::byte* block = nullptr) : block_(block) {}

  // `count` elements, aligned to kAlignment; null while only counting.
  template <class T>
  T* take(uint64_t count) {
    const uint64_t begin = used_;
    used_ += round_up(count * sizeof(T), kAlignment);
    most_ = std::max(most_, used_);
    return block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + begin);
  }

  // What is taken after rewind(mark()) lies where it did after mark(): for buffers of which one set is in use
  // at a time.
  uint64_t mark() const { return used_; }
  void rewind(uint64_t mark) { used_ = mark; }

  uint64_t size_bytes() const { return most_; }  // of the block that all of this needs

 private:
  std::byte* block_;
  uint64_t used_ = 0, most_ = 0;
};

}  // namespace nibblecast
