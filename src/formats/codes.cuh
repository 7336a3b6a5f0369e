// formats/codes.cuh - the codes of nvfp4.h and fp8_block.h in device code: the same bits as on the host.
#pragma once

#include <cstdint>

namespace nibblecast {

// E2M1 of the lowest four bits. As the lowest bits of a float's exponent and the highest of its mantissa they
// are the value times 2^-126, subnormal numbers included.
__device__ inline float e2m1_value(uint32_t code) {
  return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * 0x1p126f;
}

// The same for E4M3, times 2^-120. 0x7f and 0xff give the NaN 0x7fc00000.
__device__ inline float e4m3_value(uint32_t code) {
  if ((code & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000);
  return __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
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
