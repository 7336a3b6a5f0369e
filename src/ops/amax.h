// ops/amax.h - the largest magnitude of what was seen. A NaN is larger than infinity, infinity than any
// number, so neither is lost. The order of what is added does not matter; add() is safe from any thread.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

// max |values[i]|; 0 for none.
template <class T>
float amax(const T* values, size_t count);

class Amax {
 public:
  void add(float magnitude) {
    const uint32_t bits = std::bit_cast<uint32_t>(magnitude) & 0x7fffffffu;  // ordered as the magnitudes are
    uint32_t seen = bits_.load(std::memory_order_relaxed);
    while (seen < bits && !bits_.compare_exchange_weak(seen, bits, std::memory_order_relaxed)) {
    }
  }
  float value() const { return std::bit_cast<float>(bits_.load(std::memory_order_relaxed)); }

 private:
  std::atomic<uint32_t> bits_{0};
};

}  // namespace nibblecast
