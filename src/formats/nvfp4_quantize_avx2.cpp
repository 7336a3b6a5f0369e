// As nvfp4_quantize_avx512.cpp, which says why; eight floats at a time.
#include <immintrin.h>

#include "formats/kernels.h"
#include "formats/nvfp4_sweep.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;

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

float sum_of(__m256 first, __m256 second) {
  alignas(32) float pairs[8];
  _mm256_store_ps(pairs, _mm256_add_ps(first, second));
  float sum = pairs[0];
  for (int i = 1; i < 8; ++i) sum += pairs[i];
  return sum;
}

float block_loss(const Magnitudes& block, float scale) {
  const __m256 scales = _mm256_set1_ps(scale);
  return sum_of(squared_errors(block.first, scales), squared_errors(block.second, scales));
}

template <class T>
void block_losses(const T* values, const float* scales, size_t blocks, float* losses) {
  for (size_t block = 0; block < blocks; ++block)
    losses[block] = block_loss(load_magnitudes(values + kBlock * block), scales[block]);
}

void error_row(float magnitude, const float* scales, float* row) {
  for (size_t i = 0; i < kSweepRow; i += 8)
    _mm256_storeu_ps(row + i, squared_errors(_mm256_set1_ps(magnitude), _mm256_loadu_ps(scales + i)));
}

// Of 16 values, or under 16 scales.
struct Errors {
  __m256 first, second;
};

template <bool kWeights>
class Losses {
 public:
  unsigned at_most(float loss) const {
    const __m256 most = _mm256_set1_ps(loss);
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(losses_.first, most, _CMP_LE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(losses_.second, most, _CMP_LE_OQ));
    return static_cast<unsigned>(low | high << 8);
  }

 protected:
  Losses(const SweepScales& scales, const Magnitudes& magnitudes, const float* weights)
      : scales_(scales), magnitudes_(magnitudes), weights_(weights) {}

  // Of the block's values in order.
  float weighted_sum(__m256 first, __m256 second) const {
    if constexpr (kWeights) {
      first = _mm256_mul_ps(first, _mm256_loadu_ps(weights_));
      second = _mm256_mul_ps(second, _mm256_loadu_ps(weights_ + 8));
    }
    return sum_of(first, second);
  }
  // What is lost at least under scales 0 .. k.
  float floor_of_all(size_t k) const {
    const __m256 limit = _mm256_set1_ps(scales_.limits[k]);
    const auto squares = [&](__m256 magnitudes) {
      const __m256 above = _mm256_max_ps(_mm256_sub_ps(magnitudes, limit), _mm256_setzero_ps());
      return _mm256_mul_ps(above, above);
    };
    return weighted_sum(squares(magnitudes_.first), squares(magnitudes_.second));
  }
  template <class Error>
  Least least_of(size_t first, const Error& error) {
    losses_ = pair_of(error, 0);
    for (size_t i = 1; i < 8; ++i) {
      const Errors pair = pair_of(error, i);
      losses_.first = _mm256_add_ps(losses_.first, pair.first);
      losses_.second = _mm256_add_ps(losses_.second, pair.second);
    }
    const __m256 eight = _mm256_min_ps(losses_.first, losses_.second);
    const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    const float least = _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
    return {least, first + static_cast<size_t>(__builtin_ctz(at_most(least)))};
  }

  const SweepScales& scales_;
  const Magnitudes magnitudes_;
  const float* const weights_;

 private:
  template <class Error>
  Errors pair_of(const Error& error, size_t i) const {
    Errors low = error(i), high = error(i + 8);
    if constexpr (kWeights) {
      const __m256 low_weight = _mm256_set1_ps(weights_[i]), high_weight = _mm256_set1_ps(weights_[i + 8]);
      low = {_mm256_mul_ps(low.first, low_weight), _mm256_mul_ps(low.second, low_weight)};
      high = {_mm256_mul_ps(high.first, high_weight), _mm256_mul_ps(high.second, high_weight)};
    }
    return {_mm256_add_ps(low.first, high.first), _mm256_add_ps(low.second, high.second)};
  }

  Errors losses_;
};

Magnitudes magnitudes_of(const uint16_t* bits) {
  const auto* const at = reinterpret_cast<const __m128i*>(bits);
  return {to_floats(_mm_load_si128(at)), to_floats(_mm_load_si128(at + 1))};
}

template <bool kWeights>
class TableBlock : public Losses<kWeights> {
 public:
  TableBlock(const SweepScales& scales, const float* weights, const uint16_t* bits, uint32_t amax,
             const MseRows& table)
      : Losses<kWeights>(scales, magnitudes_of(bits), weights),
        start_(table.start[amax - table.first]),
        amax_row_(table.errors + (amax - table.first) * kSweepRow) {
    for (size_t i = 0; i < kBlock; ++i) {
      if (bits[i] >= table.first)
        rows_[i] = table.errors + (bits[i] - table.first) * kSweepRow;
      else
        add_small(i, bits[i]);
    }
  }

  size_t start() const { return start_; }
  // Unweighted, the largest value alone, where it saturates.
  float floor(size_t k) const {
    if constexpr (kWeights) return this->floor_of_all(k);
    return k < start_ ? amax_row_[k] : 0;
  }
  Least window(size_t first) {
    return this->least_of(first, [&](size_t i) {
      return Errors{_mm256_loadu_ps(rows_[i] + first), _mm256_loadu_ps(rows_[i] + first + 8)};
    });
  }
  float loss(size_t k) const {
    alignas(32) float errors[kBlock];
    for (size_t i = 0; i < kBlock; ++i) errors[i] = rows_[i][k];
    return this->weighted_sum(_mm256_load_ps(errors), _mm256_load_ps(errors + 8));
  }

 private:
  void add_small(size_t i, uint16_t bits) {
    const __m256 value = _mm256_castsi256_ps(_mm256_set1_epi32(bits << 16));
    for (size_t k = 0; k < kSweepRow; k += 8) _mm256_store_ps(small_[i] + k, _mm256_mul_ps(value, value));
    rows_[i] = small_[i];
  }

  const size_t start_;
  const float* const amax_row_;
  const float* rows_[kBlock];
  alignas(32) float small_[kBlock][kSweepRow];
};

template <bool kWeights>
void sweep_rows(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
                const float* weights, uint8_t* picks) {
  alignas(16) uint16_t magnitudes[kBlock];
  const __m128i last = _mm_set1_epi16(static_cast<int16_t>(table.first + table.rows - 1));
  const __m128i mask = _mm_set1_epi16(0x7fff);
  for (size_t block = 0; block < blocks; ++block) {
    for (size_t half = 0; half < kBlock; half += 8) {
      const __m128i bits = _mm_and_si128(load_bits(values + kBlock * block + half), mask);
      _mm_store_si128(reinterpret_cast<__m128i*>(magnitudes + half), _mm_min_epu16(bits, last));
    }
    uint32_t amax = 0;
    for (size_t i = 0; i < kBlock; ++i) amax = magnitudes[i] > amax ? magnitudes[i] : amax;
    picks[block] = 0;
    if (amax < table.first) continue;
    TableBlock<kWeights> found(scales, weights + kBlock * block * kWeights, magnitudes, amax, table);
    picks[block] = sweep_block(found, scales.doubles);
  }
}

void sweep(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
           const float* weights, uint8_t* picks) {
  (weights == nullptr ? sweep_rows<false> : sweep_rows<true>)(values, blocks, table, scales, weights, picks);
}

template <bool kWeights>
class WideBlock : public Losses<kWeights> {
 public:
  WideBlock(const SweepScales& scales, const float* weights, const float* values)
      : Losses<kWeights>(scales, load_magnitudes(values), weights) {
    _mm256_store_ps(each_, this->magnitudes_.first);
    _mm256_store_ps(each_ + 8, this->magnitudes_.second);
    amax_ = largest(this->magnitudes_);
  }

  size_t start() const {
    const __m256 amax = _mm256_set1_ps(amax_);
    size_t below = 0;
    for (size_t k = 0; k < kSweepRow; k += 8) {
      const __m256 less = _mm256_cmp_ps(_mm256_load_ps(this->scales_.limits + k), amax, _CMP_LT_OQ);
      below += static_cast<size_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(less))));
    }
    return below < kSweepScales ? below : kSweepScales - 1;
  }
  Least window(size_t first) {
    const __m256 low = _mm256_loadu_ps(this->scales_.scales + first),
                 high = _mm256_loadu_ps(this->scales_.scales + first + 8);
    return this->least_of(first, [&](size_t i) {
      const __m256 magnitude = _mm256_set1_ps(each_[i]);
      return Errors{squared_errors(magnitude, low), squared_errors(magnitude, high)};
    });
  }
  float floor(size_t k) const {
    if constexpr (kWeights) return this->floor_of_all(k);
    const float above = amax_ - this->scales_.limits[k];
    return above > 0 ? above * above : 0;
  }
  float loss(size_t k) const {
    const __m256 scale = _mm256_set1_ps(this->scales_.scales[k]);
    return this->weighted_sum(squared_errors(this->magnitudes_.first, scale),
                              squared_errors(this->magnitudes_.second, scale));
  }

 private:
  float amax_;
  alignas(32) float each_[kBlock];
};

template <bool kWeights>
void sweep_values(const float* values, size_t blocks, const SweepScales& scales, const float* weights,
                  uint8_t* picks) {
  for (size_t block = 0; block < blocks; ++block) {
    WideBlock<kWeights> found(scales, weights + kBlock * block * kWeights, values + kBlock * block);
    picks[block] = sweep_block(found, scales.doubles);
  }
}

void sweep_wide(const float* values, size_t blocks, const SweepScales& scales, const float* weights,
                uint8_t* picks) {
  (weights == nullptr ? sweep_values<false> : sweep_values<true>)(values, blocks, scales, weights, picks);
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
                                 sweep,
                                 sweep_wide,
                                 decode_nvfp4_avx2};

}  // namespace nibblecast
