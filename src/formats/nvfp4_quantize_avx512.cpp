#include <immintrin.h>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;
constexpr size_t kRow = kMseChunk * kMseChunks;
constexpr size_t kCandidates = 126;

__m256i load_bits(const bf16* values) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)); }

__m256i magnitude_bits(const bf16* values) {
  return _mm256_and_si256(load_bits(values), _mm256_set1_epi16(0x7fff));
}

__m512 to_floats(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

__m512 load(const bf16* values) { return to_floats(load_bits(values)); }
__m512 load(const float* values) { return _mm512_loadu_ps(values); }
__m512 load_magnitudes(const bf16* values) { return to_floats(magnitude_bits(values)); }
__m512 load_magnitudes(const float* values) { return _mm512_abs_ps(load(values)); }

struct Rounded {
  __m512i codes;
  __m512 values;
};

// The nearest E2M1 magnitude, ties to even; NaN gives 6. `power` is the power of two at or below the
// magnitude, at least 1: E2M1 has steps of half of it there, and so have the floats from power * 2^22 on.
Rounded round_e2m1(__m512 magnitudes) {
  const __m512 limited = _mm512_min_ps(magnitudes, _mm512_set1_ps(6.0f));  // of a NaN: the second operand
  const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(limited), _mm512_set1_epi32(0x7f800000));
  const __m512i power = _mm512_max_epi32(exponent, _mm512_set1_epi32(0x3f800000));
  const __m512i base = _mm512_add_epi32(power, _mm512_set1_epi32(22 << 23));
  const __m512 sum = _mm512_add_ps(limited, _mm512_castsi512_ps(base));
  const __m512i steps = _mm512_sub_epi32(_mm512_castps_si512(sum), base);
  const __m512i start = _mm512_sub_epi32(_mm512_srli_epi32(power, 22), _mm512_set1_epi32(254));
  return {_mm512_add_epi32(steps, start), _mm512_sub_ps(sum, _mm512_castsi512_ps(base))};
}

__m512 squared_errors(__m512 magnitudes, __m512 scale) {
  const __m512 rounded = round_e2m1(_mm512_div_ps(magnitudes, scale)).values;
  const __m512 error = _mm512_sub_ps(magnitudes, _mm512_mul_ps(rounded, scale));
  return _mm512_mul_ps(error, error);
}

void block_amax(const bf16* values, size_t blocks, float* amax) {
  for (size_t block = 0; block < blocks; ++block) {
    const __m256i bits = magnitude_bits(values + kBlock * block);
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    const __m128i ones = _mm_set1_epi16(-1);
    const int least = _mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(eight, ones))) & 0xffff;
    _mm_store_ss(amax + block, _mm_castsi128_ps(_mm_cvtsi32_si128((0xffff - least) << 16)));
  }
}

void block_amax(const float* values, size_t blocks, float* amax) {
  for (size_t block = 0; block < blocks; ++block)
    amax[block] = _mm512_reduce_max_ps(load_magnitudes(values + kBlock * block));
}

float block_loss(__m512 magnitudes, float scale) {
  const __m512 errors = squared_errors(magnitudes, _mm512_set1_ps(scale));
  alignas(32) float pairs[8];
  _mm256_store_ps(pairs, _mm256_add_ps(_mm512_castps512_ps256(errors), _mm512_extractf32x8_ps(errors, 1)));
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
  for (size_t i = 0; i < kRow; i += 16)
    _mm512_storeu_ps(row + i, squared_errors(_mm512_set1_ps(magnitude), _mm512_loadu_ps(scales + i)));
}

// The table's rows of a block's 16 values. Values without a row get one here.
struct BlockRows {
  const float* rows[kBlock];
  alignas(64) float small[kBlock][kRow];
};

void find_rows(const uint16_t* magnitudes, const MseRows& table, BlockRows& found) {
  for (size_t i = 0; i < kBlock; ++i) {
    const uint32_t bits = magnitudes[i];
    if (bits >= table.first) {
      found.rows[i] = table.errors + (bits - table.first) * kRow;
      continue;
    }
    const __m512 value = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits << 16)));
    for (size_t k = 0; k < kRow; k += 16) _mm512_store_ps(found.small[i] + k, _mm512_mul_ps(value, value));
    found.rows[i] = found.small[i];
  }
}

__m512 chunk_losses(const BlockRows& block, size_t chunk) {
  const auto pair = [&](size_t i) {
    const size_t at = chunk * kMseChunk;
    return _mm512_add_ps(_mm512_load_ps(block.rows[i] + at), _mm512_load_ps(block.rows[i + 8] + at));
  };
  __m512 sum = pair(0);
  for (size_t i = 1; i < 8; ++i) sum = _mm512_add_ps(sum, pair(i));
  return sum;
}

// A candidate's loss is at least the error of the block's largest value alone, because adding what is not
// negative never makes a float less. So a chunk whose least such error is above the best loss is left out.
uint8_t pick_candidate(const uint16_t* magnitudes, const MseRows& table, BlockRows& rows) {
  uint32_t amax = 0;
  for (size_t i = 0; i < kBlock; ++i) amax = magnitudes[i] > amax ? magnitudes[i] : amax;
  if (amax < table.first) return 0;
  find_rows(magnitudes, table, rows);
  const __m256 minima = _mm256_load_ps(table.minima + (amax - table.first) * kMseChunks);
  float least = __builtin_inff();
  size_t best = kRow;
  unsigned left = (1u << kMseChunks) - 1;
  for (size_t chunk = table.first_chunk[amax - table.first];; chunk = __builtin_ctz(left)) {
    const __m512 losses = chunk_losses(rows, chunk);
    const float chunk_least = _mm512_reduce_min_ps(losses);
    const __mmask16 equal = _mm512_cmpeq_ps_mask(losses, _mm512_set1_ps(chunk_least));
    const size_t index = chunk * kMseChunk + __builtin_ctz(equal);
    if (chunk_least < least || (chunk_least == least && index < best)) {
      least = chunk_least;
      best = index;
    }
    left &= ~(1u << chunk) & _mm256_cmp_ps_mask(minima, _mm256_set1_ps(least), _CMP_LE_OQ);
    if (left == 0) return static_cast<uint8_t>(best);
  }
}

void pick_candidates(const bf16* values, size_t blocks, const MseRows& table, uint8_t* picks) {
  BlockRows rows;
  alignas(32) uint16_t magnitudes[kBlock];
  const __m256i last = _mm256_set1_epi16(static_cast<int16_t>(table.first + table.rows - 1));
  for (size_t block = 0; block < blocks; ++block) {
    const __m256i bits = _mm256_min_epu16(magnitude_bits(values + kBlock * block), last);
    _mm256_store_si256(reinterpret_cast<__m256i*>(magnitudes), bits);
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
  const __m512 magnitudes = load_magnitudes(values);
  const float amax = _mm512_reduce_max_ps(magnitudes);
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
void encode(const T* values, const float* divisors, size_t blocks, uint8_t* codes) {
  for (size_t block = 0; block < blocks; ++block) {
    const __m512 x = load(values + kBlock * block);
    const __m512 scaled = _mm512_div_ps(x, _mm512_set1_ps(divisors[block]));
    const __m512i magnitude = round_e2m1(_mm512_abs_ps(scaled)).codes;
    const __mmask16 negative = _mm512_cmp_ps_mask(scaled, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512i code = _mm512_mask_or_epi32(magnitude, negative, magnitude, _mm512_set1_epi32(8));
    const __m512i bytes = _mm512_or_si512(code, _mm512_srli_epi64(code, 28));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + kBlock / 2 * block), _mm512_cvtepi64_epi8(bytes));
  }
}

template <class T>
void add_losses(const T* values, const float* decoded, size_t blocks, double* errors, double* squares) {
  __m512d sums[4] = {_mm512_loadu_pd(errors), _mm512_loadu_pd(errors + 8), _mm512_loadu_pd(squares),
                     _mm512_loadu_pd(squares + 8)};
  for (size_t block = 0; block < blocks; ++block) {
    const __m512 x = load(values + kBlock * block);
    const __m512 y = _mm512_loadu_ps(decoded + kBlock * block);
    const __m512d wide[2] = {_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                             _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
    const __m512d error[2] = {_mm512_sub_pd(wide[0], _mm512_cvtps_pd(_mm512_castps512_ps256(y))),
                              _mm512_sub_pd(wide[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(y, 1)))};
    for (int half = 0; half < 2; ++half) {
      sums[half] = _mm512_add_pd(sums[half], _mm512_mul_pd(error[half], error[half]));
      sums[2 + half] = _mm512_add_pd(sums[2 + half], _mm512_mul_pd(wide[half], wide[half]));
    }
  }
  _mm512_storeu_pd(errors, sums[0]);
  _mm512_storeu_pd(errors + 8, sums[1]);
  _mm512_storeu_pd(squares, sums[2]);
  _mm512_storeu_pd(squares + 8, sums[3]);
}

}  // namespace

const Nvfp4Kernels kNvfp4Avx512 = {{block_amax, block_losses<bf16>, encode<bf16>, add_losses<bf16>},
                                   {block_amax, block_losses<float>, encode<float>, add_losses<float>},
                                   error_row,
                                   pick_candidates,
                                   search_candidates,
                                   decode_nvfp4_avx512};

}  // namespace nibblecast
