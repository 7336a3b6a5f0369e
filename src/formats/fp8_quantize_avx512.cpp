#include <immintrin.h>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

// Nearest even; finite or infinite.
__m512 round_to_bf16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

// The nearest E4M3 code, ties to even. `power` is the power of two at or below the magnitude, at least 2^-6:
// E4M3 has steps of an eighth of it there, and so have the floats from power * 2^20 on.
__m128i encode_16(__m512 values) {
  const __m512 limited = _mm512_min_ps(_mm512_abs_ps(values), _mm512_set1_ps(448.0f));
  const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(limited), _mm512_set1_epi32(0x7f800000));
  const __m512i power = _mm512_max_epi32(exponent, _mm512_set1_epi32((127 - 6) << 23));
  const __m512i base = _mm512_add_epi32(power, _mm512_set1_epi32(20 << 23));
  const __m512 sum = _mm512_add_ps(limited, _mm512_castsi512_ps(base));
  const __m512i steps = _mm512_sub_epi32(_mm512_castps_si512(sum), base);
  const __m512i start = _mm512_sub_epi32(_mm512_srli_epi32(power, 20), _mm512_set1_epi32((127 - 6) << 3));
  const __m512i sign =
      _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(values), 24), _mm512_set1_epi32(0x80));
  return _mm512_cvtepi32_epi8(_mm512_or_si512(_mm512_add_epi32(steps, start), sign));
}

}  // namespace

void encode_e4m3_avx512(const bf16* values, size_t count, float scale, bool through_bf16, uint8_t* codes) {
  const __m512 divisor = _mm512_set1_ps(scale);
  for (size_t i = 0; i < count; i += 16) {
    const __mmask16 here = static_cast<__mmask16>(count - i < 16 ? (1u << (count - i)) - 1 : 0xffff);
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, values + i));
    __m512 quotient = _mm512_div_ps(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)), divisor);
    if (through_bf16) quotient = round_to_bf16(quotient);
    _mm_mask_storeu_epi8(codes + i, here, encode_16(quotient));
  }
}

}  // namespace nibblecast
