// Everything here moves pairs: two neighbouring BF16 inputs of one output are one 32-bit lane, so packing is
// a transposition of 16 outputs by 16 pairs.

#include <immintrin.h>

#include "ops/panel.h"
#include "ops/panel_kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 16;

// In each 128-bit part: rows[i] holds four 32-bit numbers of row i; afterwards number i of rows 0 .. 3.
inline void transpose_4x4(__m512i rows[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]),
                high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]),
                high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  rows[0] = _mm512_unpacklo_epi64(low01, low23);
  rows[1] = _mm512_unpackhi_epi64(low01, low23);
  rows[2] = _mm512_unpacklo_epi64(high01, high23);
  rows[3] = _mm512_unpackhi_epi64(high01, high23);
}

// 16 bytes of each of 16 rows, `stride` apart: quads[q] holds the rows' q-th 32 bits in ascending order.
inline void load_transposed(const uint8_t* from, size_t stride, __m512i quads[4]) {
  for (size_t i = 0; i < 4; ++i) {
    const auto part = [&](size_t j) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (4 * j + i) * stride));
    };
    __m512i rows = _mm512_zextsi128_si512(part(0));
    rows = _mm512_inserti32x4(rows, part(1), 1);
    rows = _mm512_inserti32x4(rows, part(2), 2);
    quads[i] = _mm512_inserti32x4(rows, part(3), 3);
  }
  transpose_4x4(quads);
}

}  // namespace

void pack_panel_avx512(const bf16* rows, size_t k, bf16* packed) {
  const size_t stride = k * sizeof(bf16);
  for (size_t depth = 0; depth < k; depth += kPackedDepth) {
    uint32_t* block = reinterpret_cast<uint32_t*>(packed + depth * kPanel);
    for (size_t output = 0; output < kPanel; output += kLanes) {
      const uint8_t* from = reinterpret_cast<const uint8_t*>(rows + output * k + depth);
      for (size_t pair = 0; pair < kPackedDepth / 2; pair += 4) {
        __m512i quads[4];
        load_transposed(from + pair * 4, stride, quads);
        for (size_t i = 0; i < 4; ++i) _mm512_storeu_si512(block + (pair + i) * kPanel + output, quads[i]);
      }
    }
  }
}

namespace {

// 2^(scale - 127) of 16 rows as what it adds to BF16 exponents, in both halves of each lane. False if a scale
// is out of range: 0.5 to 6 have exponents 126 to 129, so scales 2 to 252 keep values normal and finite.
inline bool load_exponents(const uint8_t* scales, size_t stride, __m512i* exponents) {
  alignas(64) uint32_t lanes[kLanes];
  bool in_range = true;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint32_t scale = scales[lane * stride];
    in_range = in_range && scale - 2 <= 250;
    lanes[lane] = (((scale - 127) << 7) & 0xffffu) * 0x10001u;
  }
  *exponents = _mm512_load_si512(lanes);
  return in_range;
}

// 32 inputs of 16 outputs: codes of the outputs `stride` bytes apart, to block[pair][output].
inline void pack_mxfp4_block(const uint8_t* codes, size_t stride, __m512i exponents, uint32_t* block) {
  // BF16 of the 16 codes, twice, as a lookup takes five bits of its index.
  alignas(64) static constexpr uint16_t kValues[32] = {
      0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80,
      0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
      0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  const __m512i values = _mm512_load_si512(kValues), magnitude = _mm512_set1_epi16(7);
  __m512i quads[4];
  load_transposed(codes, stride, quads);
  for (size_t quad = 0; quad < 4; ++quad) {
    for (unsigned byte = 0; byte < 4; ++byte) {
      const __m512i code = _mm512_srli_epi32(quads[quad], 8 * byte);
      // The low nibble to the low half, the high one to the high half; lookups ignore what is above it.
      const __m512i index = _mm512_mask_blend_epi16(0xaaaaaaaau, code, _mm512_slli_epi32(code, 12));
      const __m512i value = _mm512_permutexvar_epi16(index, values);
      const __mmask32 nonzero = _mm512_test_epi16_mask(index, magnitude);
      _mm512_storeu_si512(block + (quad * 4 + byte) * kPanel,
                          _mm512_mask_add_epi16(value, nonzero, value, exponents));
    }
  }
}

}  // namespace

bool pack_mxfp4_avx512(const Mxfp4View& weight, size_t row, bf16* packed) {
  constexpr size_t kStep = 128;   // inputs whose codes fill a cache line: it is read once, and 16 KB written
  constexpr size_t kAhead = 512;  // bytes; 64 rows at once are more streams than the CPU prefetches by itself
  const size_t code_stride = weight.cols / 2, scale_stride = weight.cols / 32;
  for (size_t begin = 0; begin < weight.cols; begin += kStep) {
    const size_t end = begin + kStep < weight.cols ? begin + kStep : weight.cols;
    for (size_t output = 0; output < kPanel; output += kLanes) {
      const uint8_t* codes = weight.codes + (row + output) * code_stride;
      const uint8_t* scales = weight.scales + (row + output) * scale_stride;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        _mm_prefetch(reinterpret_cast<const char*>(codes + lane * code_stride + begin / 2) + kAhead,
                     _MM_HINT_T0);
      }
      for (size_t depth = begin; depth < end; depth += kPackedDepth) {
        __m512i exponents;
        if (!load_exponents(scales + depth / 32, scale_stride, &exponents)) return false;
        pack_mxfp4_block(codes + depth / 2, code_stride, exponents,
                         reinterpret_cast<uint32_t*>(packed + depth * kPanel) + output);
      }
    }
  }
  return true;
}

namespace {

// 16 E4M3 codes, twice as many bytes apart, times 2^exponent as BF16. `exponent` stands where BF16 has its.
inline __m512i scale_e4m3(__m512i codes, __m512i exponent) {
  // 0 to 7 are m * 2^-9.
  alignas(64) static constexpr uint16_t kSmall[32] = {0,      0x3b00, 0x3b80, 0x3bc0,
                                                      0x3c00, 0x3c20, 0x3c40, 0x3c60};
  const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x80)), 8);
  const __mmask32 small = _mm512_cmplt_epi16_mask(magnitude, _mm512_set1_epi16(8));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  __m512i value = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16((127 - 7) << 7));
  value = _mm512_mask_permutexvar_epi16(value, small, magnitude, _mm512_load_si512(kSmall));
  value = _mm512_mask_add_epi16(value, _mm512_test_epi16_mask(magnitude, magnitude), value, exponent);
  return _mm512_mask_blend_epi16(nan, _mm512_or_si512(value, sign), _mm512_set1_epi16(0x7fc0));
}

// 32 inputs of 16 outputs: codes of the outputs `stride` bytes apart, to block[pair][output].
inline void pack_fp8_block(const uint8_t* codes, size_t stride, __m512i exponent, uint32_t* block) {
  // The lower or upper two bytes of each 32 bits, each widened to 16.
  const __m512i low_bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  const __m512i high_bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
  for (size_t half = 0; half < 2; ++half) {
    __m512i quads[4];
    load_transposed(codes + half * 16, stride, quads);
    for (size_t quad = 0; quad < 4; ++quad) {
      uint32_t* to = block + (half * 8 + quad * 2) * kPanel;
      _mm512_storeu_si512(to, scale_e4m3(_mm512_shuffle_epi8(quads[quad], low_bytes), exponent));
      _mm512_storeu_si512(to + kPanel, scale_e4m3(_mm512_shuffle_epi8(quads[quad], high_bytes), exponent));
    }
  }
}

}  // namespace

bool pack_fp8_avx512(const Fp8BlockView& weight, size_t row, bf16* packed) {
  constexpr size_t kStep = 64;    // inputs whose codes fill a cache line
  constexpr size_t kAhead = 512;  // bytes
  const size_t tile_row = row / weight.tile_rows;
  if (weight.scale_type != ScaleType::kE8M0 || (row + kPanel - 1) / weight.tile_rows != tile_row ||
      weight.tile_cols % kPackedDepth != 0) {
    return false;
  }
  const uint8_t* scales = static_cast<const uint8_t*>(weight.scales) +
                          tile_row * ((weight.cols + weight.tile_cols - 1) / weight.tile_cols);
  for (size_t begin = 0; begin < weight.cols; begin += kStep) {
    const size_t end = begin + kStep < weight.cols ? begin + kStep : weight.cols;
    for (size_t output = 0; output < kPanel; output += kLanes) {
      const uint8_t* codes = weight.codes + (row + output) * weight.cols;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        _mm_prefetch(reinterpret_cast<const char*>(codes + lane * weight.cols + begin) + kAhead, _MM_HINT_T0);
      }
      for (size_t depth = begin; depth < end; depth += kPackedDepth) {
        // E4M3's exponents are 118 to 135 in BF16, so these scales keep values normal and finite.
        const int scale = scales[depth / weight.tile_cols];
        if (scale < 10 || scale > 246) return false;
        pack_fp8_block(codes + depth, weight.cols, _mm512_set1_epi16(static_cast<short>((scale - 127) * 128)),
                       reinterpret_cast<uint32_t*>(packed + depth * kPanel) + output);
      }
    }
  }
  return true;
}

}  // namespace nibblecast
