// formats/fp8_block.h - F8_E4M3 weights with one scale per tile (DeepSeek: 128x128, scale E8M0 or F32;
// Qwen: BF16; F16 where a model is).
//
//   value[row, col] = e4m3(code[row, col]) * scale[row / tile_rows, col / tile_cols]     product in FP32
//
// E8M0 byte b: 2^(b - 127); 255 is NaN. With E8M0 scales the product is exact in BF16 (up to overflow and
// the bottom of the range). From spec: DeepSeek-V4 inference/convert.py, kernel.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

enum class ScaleType { kE8M0, kF32, kBF16, kF16 };

constexpr size_t scale_bytes(ScaleType type) {
  return type == ScaleType::kF32 ? 4 : type == ScaleType::kE8M0 ? 1 : 2;
}

struct Fp8BlockView {
  const uint8_t* codes = nullptr;  // [rows, cols] row-major
  const void* scales = nullptr;    // [ceil(rows / tile_rows), ceil(cols / tile_cols)]; may be unaligned
  ScaleType scale_type = ScaleType::kE8M0;
  size_t rows = 0, cols = 0;
  size_t tile_rows = 128, tile_cols = 128;
};

// Rows [row, row + count) to out[count, cols] (row stride `out_stride` elements). T: float or bf16 (the
// FP32 product rounded once more, nearest even). NaN codes and scales give NaN; the caller checks what it
// must not have.
template <class T>
void dequantize_fp8_block(const Fp8BlockView& weight, size_t row, size_t count, T* out, size_t out_stride);
// The definition; same bits.
template <class T>
void dequantize_fp8_block_ref(const Fp8BlockView& weight, size_t row, size_t count, T* out,
                              size_t out_stride);

}  // namespace nibblecast
