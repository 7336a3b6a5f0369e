// formats/codes.cuh - the codes of nvfp4.h and fp8_block.h in device code: the same bits as on the host.
#pragma once

#include <cstdint>

namespace nibblecast {

// E2M1 of the lowest four bits. As the lowest bits of a float's exponent and the highest of its mantissa they
// are the value times 2^-126, subnormal numbers included.
__device__ inline float e2m1_value(uint32_t code) {
  return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * 0x1p126f;
}

struct RoundedE2m1 {
  uint32_t code;
  float value;
};
// The nearest E2M1 magnitude, ties to the even code, at most 6; NaN gives 6. `power` is the power of two at
// or below the magnitude, at least 1: E2M1 has steps of half of it there, and so have floats from power *
// 2^22 on.
__device__ inline RoundedE2m1 round_e2m1(float magnitude) {
  const float limited = fminf(magnitude, 6.0f);  // of a NaN: the other operand
  const uint32_t power = max(__float_as_uint(limited) & 0x7f800000u, 0x3f800000u);
  const uint32_t base = power + (22u << 23);
  const float sum = limited + __uint_as_float(base);
  return {__float_as_uint(sum) - base + (power >> 22) - 254, sum - __uint_as_float(base)};
}

// E4M3 in the same way, times 2^-120. 0x7f and 0xff give the NaN 0x7fc00000.
__device__ inline float e4m3_value(uint32_t code) {
  if ((code & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000);
  return __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
}

// E4M3 of 0 ... 448, nearest even; NaN gives 0x7f. Below 2^-6 the numbers are multiples of 2^-9, and 8 is the
// code of 2^-6 itself.
__device__ inline uint8_t e4m3_code(float x) {
  if (x != x) return 0x7f;
  if (x < 0x1p-6f) return static_cast<uint8_t>(__float2uint_rn(x * 512.0f));
  const uint32_t bits = __float_as_uint(x);
  const uint32_t rounded = bits + 0x7ffffu + ((bits >> 20) & 1);
  return static_cast<uint8_t>((rounded >> 20) - ((127u - 7u) << 3));
}

// 2^(code - 127); 255 gives the NaN 0x7fc00000.
__device__ inline float e8m0_value(uint32_t code) {
  if (code == 255) return __uint_as_float(0x7fc00000);
  return code == 0 ? 0x1p-127f : __uint_as_float(code << 23);
}

// a * b with the NaN that x86 makes: an operand's, else the negative one. CUDA's own is another.
__device__ inline float product(float a, float b) {
  const float result = a * b;
  if (result == result) return result;
  const uint32_t quiet = 0x400000;
  if (a != a) return __uint_as_float(__float_as_uint(a) | quiet);
  if (b != b) return __uint_as_float(__float_as_uint(b) | quiet);
  return __uint_as_float(0xffc00000);
}

}  // namespace nibblecast
