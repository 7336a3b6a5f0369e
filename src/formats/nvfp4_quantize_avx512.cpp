#include <immintrin.h>

#include "formats/kernels.h"
#include "formats/nvfp4_sweep.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;

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

// As sum_of_16.
float sum_of(__m512 errors) {
  alignas(32) float pairs[8];
  _mm256_store_ps(pairs, _mm256_add_ps(_mm512_castps512_ps256(errors), _mm512_extractf32x8_ps(errors, 1)));
  float sum = pairs[0];
  for (int i = 1; i < 8; ++i) sum += pairs[i];
  return sum;
}

float block_loss(__m512 magnitudes, float scale) {
  return sum_of(squared_errors(magnitudes, _mm512_set1_ps(scale)));
}

template <class T>
void block_losses(const T* values, const float* scales, size_t blocks, float* losses) {
  for (size_t block = 0; block < blocks; ++block)
    losses[block] = block_loss(load_magnitudes(values + kBlock * block), scales[block]);
}

void error_row(float magnitude, const float* scales, float* row) {
  for (size_t i = 0; i < kSweepRow; i += 16)
    _mm512_storeu_ps(row + i, squared_errors(_mm512_set1_ps(magnitude), _mm512_loadu_ps(scales + i)));
}

// What blocks have alike, of nvfp4_sweep.h. Weights: whether each error has one.
template <bool kWeights>
class Losses {
 public:
  unsigned at_most(float loss) const { return _mm512_cmp_ps_mask(losses_, _mm512_set1_ps(loss), _CMP_LE_OQ); }

 protected:
  Losses(const SweepScales& scales, __m512 magnitudes, const float* weights)
      : scales_(scales), magnitudes_(magnitudes), weights_(weights) {}

  // Of the block's values in order.
  __m512 weighted(__m512 errors) const {
    if constexpr (kWeights) return _mm512_mul_ps(errors, _mm512_loadu_ps(weights_));
    return errors;
  }
  // error(i): of value i under 16 scales from `first` on.
  // What is lost at least under scales 0 .. k.
  float floor_of_all(size_t k) const {
    const __m512 above =
        _mm512_max_ps(_mm512_sub_ps(magnitudes_, _mm512_set1_ps(scales_.limits[k])), _mm512_setzero_ps());
    return sum_of(weighted(_mm512_mul_ps(above, above)));
  }
  template <class Error>
  Least least_of(size_t first, const Error& error) {
    const auto pair = [&](size_t i) {
      return _mm512_add_ps(of_value(error(i), i), of_value(error(i + 8), i + 8));
    };
    __m512 sum = pair(0);
    for (size_t i = 1; i < 8; ++i) sum = _mm512_add_ps(sum, pair(i));
    losses_ = sum;
    const float least = _mm512_reduce_min_ps(sum);
    return {least, first + static_cast<size_t>(__builtin_ctz(at_most(least)))};
  }

  const SweepScales& scales_;
  const __m512 magnitudes_;
  const float* const weights_;

 private:
  __m512 of_value(__m512 errors, size_t i) const {
    if constexpr (kWeights) return _mm512_mul_ps(errors, _mm512_set1_ps(weights_[i]));
    return errors;
  }

  __m512 losses_;
};

// Errors come from the table's rows of the values; a value without a row gets one here.
template <bool kWeights>
class TableBlock : public Losses<kWeights> {
 public:
  TableBlock(const SweepScales& scales, const float* weights, const uint16_t* bits, uint32_t amax,
             const MseRows& table)
      : Losses<kWeights>(scales, to_floats(_mm256_load_si256(reinterpret_cast<const __m256i*>(bits))),
                         weights),
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
    return this->least_of(first, [&](size_t i) { return _mm512_loadu_ps(rows_[i] + first); });
  }
  float loss(size_t k) const {
    alignas(64) float errors[kBlock];
    for (size_t i = 0; i < kBlock; ++i) errors[i] = rows_[i][k];
    return sum_of(this->weighted(_mm512_load_ps(errors)));
  }

 private:
  void add_small(size_t i, uint16_t bits) {
    const __m512 value = _mm512_castsi512_ps(_mm512_set1_epi32(bits << 16));
    for (size_t k = 0; k < kSweepRow; k += 16) _mm512_store_ps(small_[i] + k, _mm512_mul_ps(value, value));
    rows_[i] = small_[i];
  }

  const size_t start_;
  const float* const amax_row_;
  const float* rows_[kBlock];
  alignas(64) float small_[kBlock][kSweepRow];
};

template <bool kWeights>
void sweep_rows(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
                const float* weights, uint8_t* picks) {
  alignas(32) uint16_t magnitudes[kBlock];
  const __m256i last = _mm256_set1_epi16(static_cast<int16_t>(table.first + table.rows - 1));
  for (size_t block = 0; block < blocks; ++block) {
    const __m256i bits = _mm256_min_epu16(magnitude_bits(values + kBlock * block), last);
    _mm256_store_si256(reinterpret_cast<__m256i*>(magnitudes), bits);
    uint32_t amax = 0;
    for (size_t i = 0; i < kBlock; ++i) amax = magnitudes[i] > amax ? magnitudes[i] : amax;
    picks[block] = 0;
    if (amax < table.first) continue;  // 0 under every scale
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
    _mm512_store_ps(each_, this->magnitudes_);
    amax_ = _mm512_reduce_max_ps(this->magnitudes_);
  }

  size_t start() const {
    const __m512 amax = _mm512_set1_ps(amax_);
    size_t below = 0;
    for (size_t k = 0; k < kSweepRow; k += 16) {
      const __mmask16 less = _mm512_cmp_ps_mask(_mm512_load_ps(this->scales_.limits + k), amax, _CMP_LT_OQ);
      below += static_cast<size_t>(__builtin_popcount(less));
    }
    return below < kSweepScales ? below : kSweepScales - 1;
  }
  Least window(size_t first) {
    const __m512 scales = _mm512_loadu_ps(this->scales_.scales + first);
    return this->least_of(first, [&](size_t i) { return squared_errors(_mm512_set1_ps(each_[i]), scales); });
  }
  float floor(size_t k) const {
    if constexpr (kWeights) return this->floor_of_all(k);
    const float above = amax_ - this->scales_.limits[k];
    return above > 0 ? above * above : 0;
  }
  float loss(size_t k) const {
    return sum_of(this->weighted(squared_errors(this->magnitudes_, _mm512_set1_ps(this->scales_.scales[k]))));
  }

 private:
  float amax_;
  alignas(64) float each_[kBlock];
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
                                   sweep,
                                   sweep_wide,
                                   decode_nvfp4_avx512};

}  // namespace nibblecast
