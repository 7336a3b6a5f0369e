#include <immintrin.h>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

// The 32 elements as BF16. `table`: the BF16 values of the 16 codes at this block's scale.
__m512i decode_block(const uint8_t* codes, const uint16_t* table) {
  const __m512i values = _mm512_broadcast_i64x4(_mm256_load_si256(reinterpret_cast<const __m256i*>(table)));
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  // Each byte becomes two indices: itself, and itself >> 4. The lookup uses the low 5 bits of an index and
  // the table is there twice, so bit 4 does not matter.
  const __m512i indices = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
  return _mm512_permutexvar_epi16(indices, values);
}

void store_floats(__m256i bf16_values, float* out) {
  _mm512_storeu_ps(out, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16_values), 16)));
}

}  // namespace

void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, bf16* out) {
  for (size_t block = 0; block < blocks; ++block) {
    _mm512_storeu_si512(out + 32 * block, decode_block(codes + 16 * block, values.bits[scales[block]]));
  }
}

void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, float* out) {
  for (size_t block = 0; block < blocks; ++block) {
    const __m512i elements = decode_block(codes + 16 * block, values.bits[scales[block]]);
    store_floats(_mm512_castsi512_si256(elements), out + 32 * block);
    store_floats(_mm512_extracti64x4_epi64(elements, 1), out + 32 * block + 16);
  }
}

}  // namespace nibblecast
