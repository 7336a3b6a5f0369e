#include <bit>
#include <cassert>
#include <cmath>
#include <limits>

#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr float kE2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

uint8_t encode_e2m1(float x) {
  const float a = std::fabs(x);
  // Negated comparisons, so that a NaN passes all seven bounds.
  const int code =
      !(a <= 0.25f) + !(a < 0.75f) + !(a <= 1.25f) + !(a < 1.75f) + !(a <= 2.5f) + !(a < 3.5f) + !(a <= 5.0f);
  return static_cast<uint8_t>(code | (x < 0 ? 8 : 0));
}

float decode_e2m1(uint8_t code) { return kE2m1[code & 15]; }

uint8_t encode_e4m3(float x) {
  if (std::isnan(x)) return 0x7f;
  const float a = std::fabs(x);
  assert(a <= 448.0f);
  const uint32_t sign = std::signbit(x) ? 0x80 : 0;
  // Below 2^-6 the numbers are multiples of 2^-9; a * 512 is exact, and 8 is the code of 2^-6 itself.
  if (a < 0x1p-6f) return static_cast<uint8_t>(sign | static_cast<uint32_t>(std::nearbyint(a * 512.0f)));
  const uint32_t bits = std::bit_cast<uint32_t>(a);
  const uint32_t rounded = bits + 0x7ffffu + ((bits >> 20) & 1);  // nearest even at mantissa bit 3
  return static_cast<uint8_t>(sign | ((rounded >> 20) - ((127u - 7u) << 3)));
}

float decode_e4m3(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7f) return kNan;
  const float a = magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f
                                : std::bit_cast<float>((magnitude << 20) + ((127u - 7u) << 23));
  return (code & 0x80) != 0 ? -a : a;
}

float decode_e8m0(uint8_t code) {
  if (code == 255) return kNan;
  return code == 0 ? 0x1p-127f : std::bit_cast<float>(uint32_t{code} << 23);
}

template <class T>
void dequantize_nvfp4_ref(const Nvfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % 16 == 0 && row + count <= weight.rows && out_stride >= weight.cols);
  for (size_t r = 0; r < count; ++r) {
    const uint8_t* codes = weight.codes + (row + r) * (weight.cols / 2);
    const uint8_t* block_scales = weight.block_scales + (row + r) * (weight.cols / 16);
    for (size_t col = 0; col < weight.cols; ++col) {
      const int code = col % 2 == 0 ? codes[col / 2] & 15 : codes[col / 2] >> 4;
      const float scale = decode_e4m3(block_scales[col / 16]) * weight.scale_2;
      out[r * out_stride + col] = from_float<T>(decode_e2m1(static_cast<uint8_t>(code)) * scale);
    }
  }
}

template void dequantize_nvfp4_ref(const Nvfp4View&, size_t, size_t, float*, size_t);
template void dequantize_nvfp4_ref(const Nvfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
