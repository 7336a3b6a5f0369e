#include <immintrin.h>

#include "formats/kernels.h"
#include "formats/nvfp4_sweep_wide.h"

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
__m512 magnitudes_of(const bf16* values) { return to_floats(magnitude_bits(values)); }
__m512 magnitudes_of(const float* values) { return _mm512_abs_ps(load(values)); }

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
    amax[block] = _mm512_reduce_max_ps(magnitudes_of(values + kBlock * block));
}

struct Floats {
  __m512 values;

  static Floats load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Floats all(float value) { return {_mm512_set1_ps(value)}; }
  static Floats of_bits(const uint16_t* bits) {
    return {to_floats(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits)))};
  }
  template <class T>
  static Floats magnitudes(const T* from) {
    return {magnitudes_of(from)};
  }
  void store(float* to) const { _mm512_storeu_ps(to, values); }
  Floats operator+(const Floats& other) const { return {_mm512_add_ps(values, other.values)}; }
  Floats operator-(const Floats& other) const { return {_mm512_sub_ps(values, other.values)}; }
  Floats operator*(const Floats& other) const { return {_mm512_mul_ps(values, other.values)}; }
  Floats or_zero() const { return {_mm512_max_ps(values, _mm512_setzero_ps())}; }
  unsigned at_most(float value) const {
    return _mm512_cmp_ps_mask(values, _mm512_set1_ps(value), _CMP_LE_OQ);
  }
  unsigned below(float value) const { return _mm512_cmp_ps_mask(values, _mm512_set1_ps(value), _CMP_LT_OQ); }
  float least() const { return _mm512_reduce_min_ps(values); }
  float largest() const { return _mm512_reduce_max_ps(values); }
  float sum() const {
    alignas(32) float pairs[8];
    _mm256_store_ps(pairs, _mm256_add_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps(values, 1)));
    float sum = pairs[0];
    for (int i = 1; i < 8; ++i) sum += pairs[i];
    return sum;
  }
};

Floats squared_errors(const Floats& magnitudes, const Floats& scales) {
  return {squared_errors(magnitudes.values, scales.values)};
}

template <class T>
void block_losses(const T* values, const float* scales, size_t blocks, float* losses) {
  for (size_t block = 0; block < blocks; ++block)
    losses[block] =
        squared_errors(Floats::magnitudes(values + kBlock * block), Floats::all(scales[block])).sum();
}

void error_row(float magnitude, const float* scales, float* row) {
  for (size_t i = 0; i < kSweepRow; i += 16)
    _mm512_storeu_ps(row + i, squared_errors(_mm512_set1_ps(magnitude), _mm512_loadu_ps(scales + i)));
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
                                   sweep<Floats>,
                                   sweep_wide<Floats>,
                                   decode_nvfp4_avx512};

}  // namespace nibblecast
