// formats/bf16.h - bfloat16: the upper half of an IEEE binary32. sign 1, exponent 8 (bias 127), mantissa 7.
#pragma once

#include <bit>
#include <cstdint>

namespace nibblecast {

struct bf16 {
  uint16_t bits = 0;
};
static_assert(sizeof(bf16) == 2);

constexpr float to_float(bf16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
constexpr float to_float(float value) { return value; }

// Round to nearest, ties to even; overflow to infinity; a NaN stays a (quiet) NaN.
constexpr bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// For code written once for both activation types: from_float<bf16>(x), from_float<float>(x).
template <class T>
constexpr T from_float(float value);
template <>
constexpr bf16 from_float<bf16>(float value) {
  return to_bf16(value);
}
template <>
constexpr float from_float<float>(float value) {
  return value;
}

}  // namespace nibblecast
