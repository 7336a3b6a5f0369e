// formats/f16.h - IEEE binary16: sign 1, exponent 5 (bias 15), mantissa 10. Checkpoints hold it; nothing is
// computed in it.
#pragma once

#include <bit>
#include <cstdint>

namespace nibblecast {

struct f16 {
  uint16_t bits = 0;
};
static_assert(sizeof(f16) == 2);

// Exact. A NaN stays a (quiet) NaN.
constexpr float to_float(f16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, magnitude = value.bits & 0x7fffu;
  // Of a number below 2^-14 all bits are a multiple of 2^-24; else the exponent moves by 127 - 15.
  const uint32_t small =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  uint32_t bits = magnitude < 0x400u ? small : (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00u) bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  if (magnitude > 0x7c00u) bits |= 0x400000u;
  return std::bit_cast<float>(bits | sign);
}

}  // namespace nibblecast
