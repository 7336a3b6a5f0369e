// formats/mxfp4.h - E2M1 codes, two a byte, one E8M0 scale per 32 elements of a row.
//
//   value[row, col] = e2m1(code) * 2^(scale[row, col / 32] - 127)
//   byte j of a row: element 2j in the low nibble, 2j + 1 in the high one
//
// Exact in BF16 and F32 except below their smallest numbers. (DeepSeek-V4 inference/convert.py; OCP MX 1.0)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

struct Mxfp4View {
  const uint8_t* codes = nullptr;   // [rows, cols / 2]
  const uint8_t* scales = nullptr;  // [rows, cols / 32]; 255 (NaN) gives NaN values
  size_t rows = 0, cols = 0;        // cols % 32 == 0
};

// Rows [row, row + count) to out[count, cols] (row stride `out_stride` elements). T: float or bf16.
template <class T>
void dequantize_mxfp4(const Mxfp4View& weight, size_t row, size_t count, T* out, size_t out_stride);
template <class T>
void dequantize_mxfp4_ref(const Mxfp4View& weight, size_t row, size_t count, T* out, size_t out_stride);

}  // namespace nibblecast
