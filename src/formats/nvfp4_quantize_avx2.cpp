// As nvfp4_quantize_avx512.cpp, which says why; eight floats at a time.
#include <immintrin.h>

#include "formats/kernels.h"
#include "formats/nvfp4_sweep_wide.h"

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

struct Floats {
  __m256 first, second;

  static Floats load(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
  static Floats all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats of_bits(const uint16_t* bits) {
    const auto* const at = reinterpret_cast<const __m128i*>(bits);
    return {to_floats(_mm_loadu_si128(at)), to_floats(_mm_loadu_si128(at + 1))};
  }
  template <class T>
  static Floats magnitudes(const T* values) {
    return {absolute(nibblecast::load(values)), absolute(nibblecast::load(values + 8))};
  }
  void store(float* values) const {
    _mm256_storeu_ps(values, first);
    _mm256_storeu_ps(values + 8, second);
  }
  Floats operator+(const Floats& other) const {
    return {_mm256_add_ps(first, other.first), _mm256_add_ps(second, other.second)};
  }
  Floats operator-(const Floats& other) const {
    return {_mm256_sub_ps(first, other.first), _mm256_sub_ps(second, other.second)};
  }
  Floats operator*(const Floats& other) const {
    return {_mm256_mul_ps(first, other.first), _mm256_mul_ps(second, other.second)};
  }
  Floats or_zero() const {
    return {_mm256_max_ps(first, _mm256_setzero_ps()), _mm256_max_ps(second, _mm256_setzero_ps())};
  }
  unsigned at_most(float value) const {
    const __m256 most = _mm256_set1_ps(value);
    return bits_of(_mm256_cmp_ps(first, most, _CMP_LE_OQ), _mm256_cmp_ps(second, most, _CMP_LE_OQ));
  }
  unsigned below(float value) const {
    const __m256 limit = _mm256_set1_ps(value);
    return bits_of(_mm256_cmp_ps(first, limit, _CMP_LT_OQ), _mm256_cmp_ps(second, limit, _CMP_LT_OQ));
  }
  float least() const {
    const __m256 eight = _mm256_min_ps(first, second);
    const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
  }
  float largest() const {
    const __m256 eight = _mm256_max_ps(first, second);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  float sum() const {
    alignas(32) float pairs[8];
    _mm256_store_ps(pairs, _mm256_add_ps(first, second));
    float sum = pairs[0];
    for (int i = 1; i < 8; ++i) sum += pairs[i];
    return sum;
  }

 private:
  static unsigned bits_of(__m256 low, __m256 high) {
    return static_cast<unsigned>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
  }
};

Floats squared_errors(const Floats& magnitudes, const Floats& scales) {
  return {squared_errors(magnitudes.first, scales.first), squared_errors(magnitudes.second, scales.second)};
}

void block_amax(const float* values, size_t blocks, float* amax) {
  for (size_t block = 0; block < blocks; ++block)
    amax[block] = Floats::magnitudes(values + kBlock * block).largest();
}

template <class T>
void block_losses(const T* values, const float* scales, size_t blocks, float* losses) {
  for (size_t block = 0; block < blocks; ++block)
    losses[block] =
        squared_errors(Floats::magnitudes(values + kBlock * block), Floats::all(scales[block])).sum();
}

void error_row(float magnitude, const float* scales, float* row) {
  for (size_t i = 0; i < kSweepRow; i += 8)
    _mm256_storeu_ps(row + i, squared_errors(_mm256_set1_ps(magnitude), _mm256_loadu_ps(scales + i)));
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
                                 sweep<Floats>,
                                 sweep_wide<Floats>,
                                 decode_nvfp4_avx2};

}  // namespace nibblecast
