// ops/exp.h - e^x in FP32 and FP64 with plain arithmetic, so that loops over it vectorize and give the same
// bits on every CPU and with every C library.
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

// Relative error below 1e-15 for x in [-700, 700]. Below (and for -infinity): 0. Above: as at 700. NaN gives
// NaN.
inline double exp_f64(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  // Their sum is ln 2; the first has 32 bits, so that its products with whole numbers below 2^21 are exact.
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52, as above
  double clamped = x < -700.0 ? -700.0 : x;
  clamped = clamped > 700.0 ? 700.0 : clamped;
  const double shifted = clamped * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= 0.35
  // Taylor to r^13: the next term is below 0.35^14 / 14! = 5e-18.
  double sum = 1.0 / 6227020800.0;
  sum = sum * r + 1.0 / 479001600.0;
  sum = sum * r + 1.0 / 39916800.0;
  sum = sum * r + 1.0 / 3628800.0;
  sum = sum * r + 1.0 / 362880.0;
  sum = sum * r + 1.0 / 40320.0;
  sum = sum * r + 1.0 / 5040.0;
  sum = sum * r + 1.0 / 720.0;
  sum = sum * r + 1.0 / 120.0;
  sum = sum * r + 1.0 / 24.0;
  sum = sum * r + 1.0 / 6.0;
  sum = sum * r + 0.5;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
  return x < -700.0 ? 0.0 : sum * power;
}

}  // namespace nibblecast
