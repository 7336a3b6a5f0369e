#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kStep = 8;

// Seven bits of E4M3, shifted into a half float, are the value * 2^-8 (biases 7 and 15), subnormals included;
// only the NaN code needs a look.
__m256 scale_8(const uint8_t* codes, __m256 scale) {
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
  const __m128i half = _mm_or_si128(_mm_slli_epi16(magnitude, 7), sign);
  const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
  const __m256 value = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  const __m256 mask = _mm256_castsi256_ps(_mm256_cvtepi16_epi32(is_nan));
  return _mm256_mul_ps(_mm256_blendv_ps(value, nan, mask), scale);
}

void store_8(__m256 values, float* out) { _mm256_storeu_ps(out, values); }

// Nearest even. The only NaNs here have a zero lower half, so the addition does not carry out of them.
void store_8(__m256 values, bf16* out) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i upper = _mm256_srli_epi32(rounded, 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), packed);
}

template <class T>
void scale_e4m3(const uint8_t* codes, size_t count, float scale, T* out) {
  const __m256 scales = _mm256_set1_ps(scale);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) store_8(scale_8(codes + i, scales), out + i);
  if (i == count) return;
  uint8_t last_codes[kStep] = {};
  alignas(T) unsigned char last[kStep * sizeof(T)];
  std::memcpy(last_codes, codes + i, count - i);
  store_8(scale_8(last_codes, scales), reinterpret_cast<T*>(last));
  std::memcpy(out + i, last, (count - i) * sizeof(T));
}

}  // namespace

void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, float* out) {
  scale_e4m3(codes, count, scale, out);
}

void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, bf16* out) {
  scale_e4m3(codes, count, scale, out);
}

}  // namespace nibblecast
