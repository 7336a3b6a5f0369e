// As fp8_quantize_avx512.cpp, which says why; eight at a time.
#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kStep = 8;

__m256 round_to_bf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}

// Eight codes in the low bytes of the result.
__m128i encode_8(__m256 values) {
  const __m256 magnitude = _mm256_and_ps(values, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
  const __m256 limited = _mm256_min_ps(magnitude, _mm256_set1_ps(448.0f));
  const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(limited), _mm256_set1_epi32(0x7f800000));
  const __m256i power = _mm256_max_epi32(exponent, _mm256_set1_epi32((127 - 6) << 23));
  const __m256i base = _mm256_add_epi32(power, _mm256_set1_epi32(20 << 23));
  const __m256 sum = _mm256_add_ps(limited, _mm256_castsi256_ps(base));
  const __m256i steps = _mm256_sub_epi32(_mm256_castps_si256(sum), base);
  const __m256i start = _mm256_sub_epi32(_mm256_srli_epi32(power, 20), _mm256_set1_epi32((127 - 6) << 3));
  const __m256i sign =
      _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(values), 24), _mm256_set1_epi32(0x80));
  const __m256i code = _mm256_or_si256(_mm256_add_epi32(steps, start), sign);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
  return _mm_packus_epi16(words, words);
}

__m128i quotient_codes(__m128i bits, __m256 divisor, bool through_bf16) {
  const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
  const __m256 quotient = _mm256_div_ps(_mm256_castsi256_ps(wide), divisor);
  return encode_8(through_bf16 ? round_to_bf16(quotient) : quotient);
}

}  // namespace

void encode_e4m3_avx2(const bf16* values, size_t count, float scale, bool through_bf16, uint8_t* codes) {
  const __m256 divisor = _mm256_set1_ps(scale);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), quotient_codes(bits, divisor, through_bf16));
  }
  if (i == count) return;
  __m128i last = _mm_setzero_si128();
  std::memcpy(&last, values + i, (count - i) * sizeof(bf16));
  last = quotient_codes(last, divisor, through_bf16);
  std::memcpy(codes + i, &last, count - i);
}

}  // namespace nibblecast
