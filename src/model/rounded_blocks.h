// model/rounded_blocks.h - how many blocks of linears' inputs a forward pass has rounded
// (formats/nvfp4_input.h).
#pragma once

#include <atomic>
#include <cstdint>

namespace nibblecast {

struct RoundedBlocks {
  uint64_t blocks = 0, saturated = 0;  // of 16 values, of each linear's input
};

// Counts from several threads.
class RoundedCounter {
 public:
  void add(uint64_t blocks, uint64_t saturated) {
    blocks_.fetch_add(blocks, std::memory_order_relaxed);
    saturated_.fetch_add(saturated, std::memory_order_relaxed);
  }
  RoundedBlocks value() const { return {blocks_.load(), saturated_.load()}; }

 private:
  std::atomic<uint64_t> blocks_ = 0, saturated_ = 0;
};

}  // namespace nibblecast
