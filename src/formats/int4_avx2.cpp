#include <immintrin.h>

#include <cstring>

#include "formats/kernels.h"

namespace nibblecast {

void scale_int4_avx2(const uint8_t* codes, size_t count, float scale, float* out) {
  const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  const __m256 scales = _mm256_set1_ps(scale);
  for (size_t i = 0; i < count; i += 8) {
    int word;
    std::memcpy(&word, codes + i / 2, sizeof word);
    const __m256i nibbles =
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts), _mm256_set1_epi32(15));
    const __m256 values = _mm256_cvtepi32_ps(_mm256_sub_epi32(nibbles, _mm256_set1_epi32(8)));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(values, scales));
  }
}

}  // namespace nibblecast
