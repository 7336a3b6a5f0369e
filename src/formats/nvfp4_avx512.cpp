#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kStep = 16;

struct Narrow {
  __m256i values;
  unsigned inexact;  // how many
};

Narrow narrow_16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __mmask16 rounds = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0xffff));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
  return {_mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)),
          static_cast<unsigned>(__builtin_popcount(rounds & ~nan & 0xffffu))};
}

}  // namespace

// Every second code is in the low nibble of its byte; a table lookup looks at the low four bits of an index.
void decode_nvfp4_avx512(const uint8_t* codes, const uint8_t* block_scales, size_t blocks,
                         const float* scales, float* out) {
  const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f,
                                       -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
  for (size_t block = 0; block < blocks; ++block) {
    const __m512i bytes =
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8 * block)));
    const __m512 value = _mm512_permutexvar_ps(_mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28)), values);
    _mm512_storeu_ps(out + 16 * block, _mm512_mul_ps(value, _mm512_set1_ps(scales[block_scales[block]])));
  }
}

uint64_t narrow_avx512(const float* values, size_t count, bf16* out) {
  uint64_t inexact = 0;
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const Narrow narrow = narrow_16(_mm512_loadu_ps(values + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), narrow.values);
    inexact += narrow.inexact;
  }
  const auto rest = static_cast<__mmask16>((1u << (count - i)) - 1);
  const Narrow narrow = narrow_16(_mm512_maskz_loadu_ps(rest, values + i));
  _mm256_mask_storeu_epi16(out + i, rest, narrow.values);
  return inexact + narrow.inexact;
}

}  // namespace nibblecast
