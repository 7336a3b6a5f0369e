#include "ops/amax.h"

#include "ops/per_isa.h"

namespace nibblecast {
namespace {

[[gnu::always_inline]] inline uint32_t largest_of_floats(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
    largest = largest > bits ? largest : bits;
  }
  return largest;
}

[[gnu::always_inline]] inline uint16_t largest_of_bf16(const bf16* values, size_t count) {
  uint16_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint16_t bits = values[i].bits & 0x7fff;
    largest = largest > bits ? largest : bits;
  }
  return largest;
}

}  // namespace

template <>
float amax(const float* values, size_t count) {
  return std::bit_cast<float>(per_isa<largest_of_floats>(values, count));
}

template <>
float amax(const bf16* values, size_t count) {
  return to_float(bf16{per_isa<largest_of_bf16>(values, count)});
}

}  // namespace nibblecast
