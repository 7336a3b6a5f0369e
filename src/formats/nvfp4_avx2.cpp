#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kStep = 8;

// Four bytes of codes: the lookup looks at the low three bits of an index, bit 3 is the sign.
__m256 decode_8(const uint8_t* codes) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256i bytes = _mm256_cvtepu8_epi64(_mm_loadu_si32(codes));
  const __m256i indices = _mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28));
  const __m256i signs = _mm256_slli_epi32(_mm256_and_si256(indices, _mm256_set1_epi32(8)), 28);
  return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, indices), _mm256_castsi256_ps(signs));
}

struct Narrow {
  __m128i values;
  unsigned inexact;  // how many
};

Narrow narrow_8(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff));
  const __m256i exact = _mm256_or_si256(_mm256_cmpeq_epi32(low, _mm256_setzero_si256()), nan);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const int inexact = 0xff & ~_mm256_movemask_ps(_mm256_castsi256_ps(exact));
  return {_mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1)),
          static_cast<unsigned>(__builtin_popcount(static_cast<unsigned>(inexact)))};
}

}  // namespace

void decode_nvfp4_avx2(const uint8_t* codes, const uint8_t* block_scales, size_t blocks, const float* scales,
                       float* out) {
  for (size_t block = 0; block < blocks; ++block) {
    const __m256 scale = _mm256_set1_ps(scales[block_scales[block]]);
    _mm256_storeu_ps(out + 16 * block, _mm256_mul_ps(decode_8(codes + 8 * block), scale));
    _mm256_storeu_ps(out + 16 * block + 8, _mm256_mul_ps(decode_8(codes + 8 * block + 4), scale));
  }
}

uint64_t narrow_avx2(const float* values, size_t count, bf16* out) {
  uint64_t inexact = 0;
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const Narrow narrow = narrow_8(_mm256_loadu_ps(values + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), narrow.values);
    inexact += narrow.inexact;
  }
  if (i == count) return inexact;
  float last[kStep] = {};
  std::memcpy(last, values + i, (count - i) * sizeof(float));
  const Narrow narrow = narrow_8(_mm256_loadu_ps(last));
  std::memcpy(static_cast<void*>(out + i), &narrow.values, (count - i) * sizeof(bf16));
  return inexact + narrow.inexact;
}

}  // namespace nibblecast
