// formats/int4.h - signed integers of four bits, eight a 32-bit word, one scale for each group of a row's
// columns.
//
//   value[row, col] = (nibble[row, col] - 8) * scale[row, col / group]     product in FP32
//   byte j of a row: column 2j in the low nibble, 2j + 1 in the high one
//
// A word is little-endian, so that column c stands in its bits 4 (c mod 8)... With BF16 and F16 scales the
// product is exact in FP32, and not always in BF16. (compressed-tensors 0.20, compressors/pack_quantized:
// symmetric)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"
#include "formats/fp8_block.h"

namespace nibblecast {

struct Int4View {
  const uint8_t* codes = nullptr;  // [rows, cols / 2]
  const void* scales = nullptr;    // [rows, cols / group]; may be unaligned
  ScaleType scale_type = ScaleType::kBF16;
  size_t rows = 0, cols = 0;  // cols % group == 0
  size_t group = 32;          // a multiple of 8
};

// Rows [row, row + count) to out[count, cols] (row stride `out_stride` elements). T: float or bf16 (the FP32
// product rounded once more, nearest even). A NaN scale gives NaN.
template <class T>
void dequantize_int4(const Int4View& weight, size_t row, size_t count, T* out, size_t out_stride);
// The definition; same bits.
template <class T>
void dequantize_int4_ref(const Int4View& weight, size_t row, size_t count, T* out, size_t out_stride);

}  // namespace nibblecast
