#include <immintrin.h>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

struct Halves {
  __m256i first, second;  // elements 0 ... 15 and 16 ... 31 as BF16
};

// `table`: the BF16 values of the 16 codes at this block's scale. A byte shuffle looks up low and high
// bytes apart.
Halves decode_block(const uint8_t* codes, const uint16_t* table) {
  const __m256i values = _mm256_load_si256(reinterpret_cast<const __m256i*>(table));
  const __m256i low_then_high = _mm256_permute4x64_epi64(
      _mm256_packus_epi16(_mm256_and_si256(values, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(values, 8)),
      0xd8);
  const __m256i low_bytes = _mm256_permute4x64_epi64(low_then_high, 0x44);
  const __m256i high_bytes = _mm256_permute4x64_epi64(low_then_high, 0xee);

  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m128i even = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m256i nibbles = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));

  const __m256i low = _mm256_shuffle_epi8(low_bytes, nibbles);
  const __m256i high = _mm256_shuffle_epi8(high_bytes, nibbles);
  const __m256i a = _mm256_unpacklo_epi8(low, high);  // elements 0 ... 7 and 16 ... 23
  const __m256i b = _mm256_unpackhi_epi8(low, high);  // elements 8 ... 15 and 24 ... 31
  return {_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
}

void store_floats(__m256i bf16_values, float* out) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(bf16_values));
  const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(bf16_values, 1));
  _mm256_storeu_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(low, 16)));
  _mm256_storeu_ps(out + 8, _mm256_castsi256_ps(_mm256_slli_epi32(high, 16)));
}

}  // namespace

void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       bf16* out) {
  for (size_t block = 0; block < blocks; ++block) {
    const Halves halves = decode_block(codes + 16 * block, values.bits[scales[block]]);
    auto* to = reinterpret_cast<__m256i*>(out + 32 * block);
    _mm256_storeu_si256(to, halves.first);
    _mm256_storeu_si256(to + 1, halves.second);
  }
}

void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       float* out) {
  for (size_t block = 0; block < blocks; ++block) {
    const Halves halves = decode_block(codes + 16 * block, values.bits[scales[block]]);
    store_floats(halves.first, out + 32 * block);
    store_floats(halves.second, out + 32 * block + 16);
  }
}

}  // namespace nibblecast
