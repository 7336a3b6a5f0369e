#include "ops/amax.h"

#include <algorithm>

namespace nibblecast {

template <>
float amax(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  return std::bit_cast<float>(largest);
}

template <>
float amax(const bf16* values, size_t count) {
  uint16_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, static_cast<uint16_t>(values[i].bits & 0x7fff));
  }
  return to_float(bf16{largest});
}

}  // namespace nibblecast
