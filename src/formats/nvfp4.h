// formats/nvfp4.h - NVFP4: E2M1 codes, two a byte, one E4M3 scale per 16 elements of a row (block scale),
// one F32 scale per tensor (global scale, `weight_scale_2`).
//
//   value[row, col] = e2m1(code) * (float(e4m3(block_scale)) * scale_2)     products in FP32
//   byte j of a row: element 2j in the low nibble, 2j + 1 in the high one
//   block scales: row-major, not swizzled
//
// Encoding follows NVIDIA ModelOpt 0.47 on the CPU to the bit (docs/formats/nvfp4.md, A.1-A.3): all FP32,
// true divisions, each rounding as written there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

inline constexpr float kNvfp4Max = 6.0f * 448.0f;  // 2688: largest |value| at scale_2 = 1

// weight_scale_2 or input_scale of a tensor whose largest magnitude is amax: amax / 2688, one division.
constexpr float nvfp4_global_scale(float amax) { return amax / kNvfp4Max; }

// Nearest of {0 .5 1 1.5 2 3 4 6}, ties to the even code, saturating at 6; bit 3 set where x < 0 (so -0
// gives 0 and a negative value that rounds to zero gives 8). NaN gives 7.
uint8_t encode_e2m1(float x);
float decode_e2m1(uint8_t code);  // 8 gives -0

// E4M3 ("fn"): nearest even, subnormals included. Requires |x| <= 448 or NaN (gives 0x7f).
uint8_t encode_e4m3(float x);
float decode_e4m3(uint8_t code);  // 0x7f, 0xff give NaN

float decode_e8m0(uint8_t code);  // 2^(code - 127); 0 is 2^-127 (subnormal); 255 gives NaN

struct Nvfp4View {
  const uint8_t* codes = nullptr;         // [rows, cols / 2]
  const uint8_t* block_scales = nullptr;  // [rows, cols / 16]
  float scale_2 = 1;
  size_t rows = 0, cols = 0;  // cols % 16 == 0
};

// Rows [row, row + count) to out[count, cols] (row stride `out_stride` elements). T: float or bf16 (the FP32
// product rounded once more, nearest even). Returns how many values that rounding changed.
template <class T>
uint64_t dequantize_nvfp4(const Nvfp4View& weight, size_t row, size_t count, T* out, size_t out_stride);
// The definition; same bits.
template <class T>
void dequantize_nvfp4_ref(const Nvfp4View& weight, size_t row, size_t count, T* out, size_t out_stride);

}  // namespace nibblecast
