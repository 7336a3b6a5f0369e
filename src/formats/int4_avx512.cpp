#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

// Of 16 nibbles in the lowest 64 bits.
__m512 scale_16(__m128i words, __m512 scale) {
  const __m512i places = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  const __m512i spread = _mm512_permutexvar_epi32(places, _mm512_castsi128_si512(words));
  const __m512i nibbles = _mm512_and_si512(_mm512_srlv_epi32(spread, shifts), _mm512_set1_epi32(15));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(nibbles, _mm512_set1_epi32(8))), scale);
}

}  // namespace

void scale_int4_avx512(const uint8_t* codes, size_t count, float scale, float* out) {
  const __m512 scales = _mm512_set1_ps(scale);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i words = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i / 2));
    _mm512_storeu_ps(out + i, scale_16(words, scales));
  }
  if (i == count) return;
  int word;
  std::memcpy(&word, codes + i / 2, sizeof word);
  _mm256_storeu_ps(out + i, _mm512_castps512_ps256(scale_16(_mm_cvtsi32_si128(word), scales)));
}

}  // namespace nibblecast
