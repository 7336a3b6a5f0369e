#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kStep = 32;

struct Floats {
  __m512 first, second;  // elements 0 ... 15 and 16 ... 31
};

// As in fp8_block_avx2.cpp: E4M3 bits shifted into a half float are the value * 2^-8, but for the NaN code.
Floats scale_32(const uint8_t* codes, __m512 scale) {
  const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi16(0x7f));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(0x80)), 8);
  const __m512i half = _mm512_or_si512(_mm512_slli_epi16(magnitude, 7), sign);
  const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  const __m512 nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
  const auto scaled = [&](__m256i halves, __mmask16 nans) {
    const __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0f));
    return _mm512_mul_ps(_mm512_mask_blend_ps(nans, value, nan), scale);
  };
  return {scaled(_mm512_castsi512_si256(half), static_cast<__mmask16>(is_nan)),
          scaled(_mm512_extracti64x4_epi64(half, 1), static_cast<__mmask16>(is_nan >> 16))};
}

void store_32(Floats values, float* out) {
  _mm512_storeu_ps(out, values.first);
  _mm512_storeu_ps(out + 16, values.second);
}

// Nearest even, in the upper half of each lane. The only NaNs here have a zero lower half, so the addition
// does not carry out of them.
__m512i round_to_upper_half(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}

void store_32(Floats values, bf16* out) {
  alignas(64) static constexpr uint16_t kUpperHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                            23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                            45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  _mm512_storeu_si512(
      out, _mm512_permutex2var_epi16(round_to_upper_half(values.first), _mm512_load_si512(kUpperHalves),
                                     round_to_upper_half(values.second)));
}

template <class T>
void scale_e4m3(const uint8_t* codes, size_t count, float scale, T* out) {
  const __m512 scales = _mm512_set1_ps(scale);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) store_32(scale_32(codes + i, scales), out + i);
  if (i == count) return;
  uint8_t last_codes[kStep] = {};
  alignas(T) unsigned char last[kStep * sizeof(T)];
  std::memcpy(last_codes, codes + i, count - i);
  store_32(scale_32(last_codes, scales), reinterpret_cast<T*>(last));
  std::memcpy(out + i, last, (count - i) * sizeof(T));
}

}  // namespace

void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, float* out) {
  scale_e4m3(codes, count, scale, out);
}

void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, bf16* out) {
  scale_e4m3(codes, count, scale, out);
}

}  // namespace nibblecast
