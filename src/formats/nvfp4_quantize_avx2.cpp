// As nvfp4_quantize_avx512.cpp, which says why; eight floats at a time.
#include <immintrin.h>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;
constexpr size_t kRow = kMseChunk * kMseChunks;
constexpr size_t kCandidates = 126;

__m128i load_bits(const bf16* values) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)); }

__m256 to_floats(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

__m256 absolute(__m256 x) { return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }

__m256 load(const bf16* values) { return to_floats(load_bits(values)); }
__m256 load(const float* values) { return _mm256_loadu_ps(values); }

struct Rounded {
  __m256i codes;
  __m256 values;
};

Rounded round_e2m1(__m256 magnitudes) {
  const __m256 limited = _mm256_min_ps(magnitudes, _mm256_set1_ps(6.0f));  // of a NaN: the second operand
  const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(limited), _mm256_set1_epi32(0x7f800000));
  const __m256i power = _mm256_max_epi32(exponent, _mm256_set1_epi32(0x3f800000));
  const __m256i base = _mm256_add_epi32(power, _mm256_set1_epi32(22 << 23));
  const __m256 sum = _mm256_add_ps(limited, _mm256_castsi256_ps(base));
  const __m256i steps = _mm256_sub_epi32(_mm256_castps_si256(sum), base);
  const __m256i start = _mm256_sub_epi32(_mm256_srli_epi32(power, 22), _mm256_set1_epi32(254));
  return {_mm256_add_epi32(steps, start), _mm256_sub_ps(sum, _mm256_castsi256_ps(base))};
}

__m256 squared_errors(__m256 magnitudes, __m256 scale) {
  const __m256 rounded = round_e2m1(_mm256_div_ps(magnitudes, scale)).values;
  const __m256 error = _mm256_sub_ps(magnitudes, _mm256_mul_ps(rounded, scale));
  return _mm256_mul_ps(error, error);
}

void block_amax(const bf16* values, size_t blocks, float* amax) {
  const __m128i magnitude = _mm_set1_epi16(0x7fff), ones = _mm_set1_epi16(-1);
  for (size_t block = 0; block < blocks; ++block) {
    const __m128i first = _mm_and_si128(load_bits(values + kBlock * block), magnitude);
    const __m128i second = _mm_and_si128(load_bits(values + kBlock * block + 8), magnitude);
    const __m128i inverted = _mm_xor_si128(_mm_max_epu16(first, second), ones);
    const int least = _mm_cvtsi128_si32(_mm_minpos_epu16(inverted)) & 0xffff;
    _mm_store_ss(amax + block, _mm_castsi128_ps(_mm_cvtsi32_si128((0xffff - least) << 16)));
  }
}

// Magnitudes of a block.
struct Magnitudes {
  __m256 first, second;
};

template <class T>
Magnitudes load_magnitudes(const T* values) {
  return {absolute(load(values)), absolute(load(values + 8))};
}

float largest(const Magnitudes& block) {
  const __m256 eight = _mm256_max_ps(block.first, block.second);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

void block_amax(const float* values, size_t blocks, float* amax) {
  for (size_t block = 0; block < blocks; ++block)
    amax[block] = largest(load_magnitudes(values + kBlock * block));
}

float block_loss(const Magnitudes& block, float scale) {
  const __m256 scales = _mm256_set1_ps(scale);
  alignas(32) float pairs[8];
  _mm256_store_ps(pairs,
                  _mm256_add_ps(squared_errors(block.first, scales), squared_errors(block.second, scales)));
  float sum = pairs[0];
  for (int i = 1; i < 8; ++i) sum += pairs[i];
  return sum;
}

template <class T>
void block_losses(const T* values, const float* scales, size_t blocks, float* losses) {
  for (size_t block = 0; block < blocks; ++block)
    losses[block] = block_loss(load_magnitudes(values + kBlock * block), scales[block]);
}

void error_row(float magnitude, const float* scales, float* row) {
  for (size_t i = 0; i < kRow; i += 8)
    _mm256_storeu_ps(row + i, squared_errors(_mm256_set1_ps(magnitude), _mm256_loadu_ps(scales + i)));
}

struct BlockRows {
  const float* rows[kBlock];
  alignas(32) float small[kBlock][kRow];
};

void find_rows(const uint16_t* magnitudes, const MseRows& table, BlockRows& found) {
  for (size_t i = 0; i < kBlock; ++i) {
    const uint32_t bits = magnitudes[i];
    if (bits >= table.first) {
      found.rows[i] = table.errors + (bits - table.first) * kRow;
      continue;
    }
    const __m256 value = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits << 16)));
    for (size_t k = 0; k < kRow; k += 8) _mm256_store_ps(found.small[i] + k, _mm256_mul_ps(value, value));
    found.rows[i] = found.small[i];
  }
}

struct Best {
  float loss;
  size_t index;
};

Best best_of_chunk(const BlockRows& block, size_t chunk) {
  const auto pair = [&](size_t i, size_t at) {
    return _mm256_add_ps(_mm256_load_ps(block.rows[i] + at), _mm256_load_ps(block.rows[i + 8] + at));
  };
  const size_t at = chunk * kMseChunk;
  __m256 first = pair(0, at), second = pair(0, at + 8);
  for (size_t i = 1; i < 8; ++i) {
    first = _mm256_add_ps(first, pair(i, at));
    second = _mm256_add_ps(second, pair(i, at + 8));
  }
  const __m256 eight = _mm256_min_ps(first, second);
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  const float least = _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
  const __m256 wanted = _mm256_set1_ps(least);
  const unsigned low = _mm256_movemask_ps(_mm256_cmp_ps(first, wanted, _CMP_EQ_OQ));
  const unsigned high = _mm256_movemask_ps(_mm256_cmp_ps(second, wanted, _CMP_EQ_OQ));
  return {least, at + __builtin_ctz(low | high << 8)};
}

uint8_t pick_candidate(const uint16_t* magnitudes, const MseRows& table, BlockRows& rows) {
  uint32_t amax = 0;
  for (size_t i = 0; i < kBlock; ++i) amax = magnitudes[i] > amax ? magnitudes[i] : amax;
  if (amax < table.first) return 0;
  find_rows(magnitudes, table, rows);
  const __m256 minima = _mm256_load_ps(table.minima + (amax - table.first) * kMseChunks);
  Best best = {__builtin_inff(), kRow};
  unsigned left = (1u << kMseChunks) - 1;
  for (size_t chunk = table.first_chunk[amax - table.first];; chunk = __builtin_ctz(left)) {
    const Best found = best_of_chunk(rows, chunk);
    if (found.loss < best.loss || (found.loss == best.loss && found.index < best.index)) best = found;
    const __m256 possible = _mm256_cmp_ps(minima, _mm256_set1_ps(best.loss), _CMP_LE_OQ);
    left &= ~(1u << chunk) & static_cast<unsigned>(_mm256_movemask_ps(possible));
    if (left == 0) return static_cast<uint8_t>(best.index);
  }
}

void pick_candidates(const bf16* values, size_t blocks, const MseRows& table, uint8_t* picks) {
  BlockRows rows;
  alignas(16) uint16_t magnitudes[kBlock];
  const __m128i last = _mm_set1_epi16(static_cast<int16_t>(table.first + table.rows - 1));
  const __m128i mask = _mm_set1_epi16(0x7fff);
  for (size_t block = 0; block < blocks; ++block) {
    for (size_t half = 0; half < kBlock; half += 8) {
      const __m128i bits = _mm_and_si128(load_bits(values + kBlock * block + half), mask);
      _mm_store_si128(reinterpret_cast<__m128i*>(magnitudes + half), _mm_min_epu16(bits, last));
    }
    picks[block] = pick_candidate(magnitudes, table, rows);
  }
}

// The first scale under which the block's amax becomes at most 6, or the last one.
size_t first_of_search(const float* scales, float amax) {
  size_t low = 0, high = kCandidates - 1;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (scales[middle] * 6.0f < amax)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// From there down until the amax alone, which saturates, has an error above the least loss, and up until all
// values become 0: no other can win.
uint8_t search_candidate(const float* values, const float* scales) {
  const Magnitudes magnitudes = load_magnitudes(values);
  const float amax = largest(magnitudes);
  const size_t start = first_of_search(scales, amax);
  float least = __builtin_inff();
  size_t best = kRow;
  const auto consider = [&](size_t k) {
    const float loss = block_loss(magnitudes, scales[k]);
    if (loss < least || (loss == least && k < best)) {
      least = loss;
      best = k;
    }
  };
  for (size_t k = start + 1; k-- > 0;) {
    consider(k);
    const float error = amax - 6.0f * scales[k];
    if (error >= 0 && error * error > least) break;
  }
  for (size_t k = start + 1; k < kCandidates; ++k) {
    consider(k);
    if (amax / scales[k] <= 0.25f) break;
  }
  return static_cast<uint8_t>(best);
}

void search_candidates(const float* values, size_t blocks, const float* scales, uint8_t* picks) {
  for (size_t block = 0; block < blocks; ++block)
    picks[block] = search_candidate(values + kBlock * block, scales);
}

template <class T>
__m256i encode_8(const T* values, __m256 divisor) {
  const __m256 scaled = _mm256_div_ps(load(values), divisor);
  const __m256 negative = _mm256_cmp_ps(scaled, _mm256_setzero_ps(), _CMP_LT_OQ);
  const __m256i sign = _mm256_and_si256(_mm256_castps_si256(negative), _mm256_set1_epi32(8));
  const __m256i code = _mm256_or_si256(round_e2m1(absolute(scaled)).codes, sign);
  return _mm256_or_si256(code, _mm256_srli_epi64(code, 28));  // the low byte of each 64 bits
}

template <class T>
void encode(const T* values, const float* divisors, size_t blocks, uint8_t* codes) {
  const __m256i low_bytes = _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                             8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  for (size_t block = 0; block < blocks; ++block) {
    const __m256 divisor = _mm256_set1_ps(divisors[block]);
    for (size_t half = 0; half < 2; ++half) {
      const __m256i bytes =
          _mm256_shuffle_epi8(encode_8(values + kBlock * block + 8 * half, divisor), low_bytes);
      const __m128i four =
          _mm_unpacklo_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
      _mm_storeu_si32(codes + kBlock / 2 * block + 4 * half, four);
    }
  }
}

__m128 load_4(const bf16* values) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16));
}
__m128 load_4(const float* values) { return _mm_loadu_ps(values); }

template <class T>
void add_losses(const T* values, const float* decoded, size_t blocks, double* errors, double* squares) {
  for (size_t at = 0; at < kBlock; at += 4) {
    __m256d error_sum = _mm256_loadu_pd(errors + at), square_sum = _mm256_loadu_pd(squares + at);
    for (size_t i = at; i < blocks * kBlock; i += kBlock) {
      const __m256d x = _mm256_cvtps_pd(load_4(values + i));
      const __m256d error = _mm256_sub_pd(x, _mm256_cvtps_pd(_mm_loadu_ps(decoded + i)));
      error_sum = _mm256_add_pd(error_sum, _mm256_mul_pd(error, error));
      square_sum = _mm256_add_pd(square_sum, _mm256_mul_pd(x, x));
    }
    _mm256_storeu_pd(errors + at, error_sum);
    _mm256_storeu_pd(squares + at, square_sum);
  }
}

}  // namespace

const Nvfp4Kernels kNvfp4Avx2 = {{block_amax, block_losses<bf16>, encode<bf16>, add_losses<bf16>},
                                 {block_amax, block_losses<float>, encode<float>, add_losses<float>},
                                 error_row,
                                 pick_candidates,
                                 search_candidates,
                                 decode_nvfp4_avx2};

}  // namespace nibblecast
