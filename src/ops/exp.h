// ops/exp.h - e^x in FP32 with plain arithmetic, so that loops over it vectorize and give the same bits on
// every CPU and with every C library.
#pragma once

#include <bit>
#include <cstdint>

namespace nibblecast {

// Relative error below 3e-7 for x in [-87, 88]. Below -87 (and for -infinity): 0. Above 88: as at 88.
// NaN gives NaN.
inline float exp_f32(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f,
                  kLn2Low = -2.12194440e-4f;  // their sum is ln 2; the first has 9 bits
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  float clamped = x < -87.0f ? -87.0f : x;
  clamped = clamped > 88.0f ? 88.0f : clamped;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= 0.35; exact products, as |n| < 128
  // Taylor to r^7: the next term is below 0.35^8 / 8! = 6e-9.
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : sum * power;
}

}  // namespace nibblecast
