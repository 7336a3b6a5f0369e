// formats/fp8_quantize.h - BF16 weights to FP8 E4M3 (fp8_block.h), to the byte as NVIDIA ModelOpt 0.47 on the
// CPU.
//
//   per tensor   scale = amax / 448, F32;             code = E4M3(bf16(value / scale))
//   per tile     scale = tile's amax / 448, F32;      code = E4M3(value / scale)
//                scale = least 2^k >= amax / 448;     code = E4M3(value / scale), exact quotient (E8M0)
//
// Quotients in FP32; E4M3 rounds to nearest even, saturating at 448. The quotient's rounding to BF16 is what
// PyTorch makes of a BF16 tensor over a scalar. (ModelOpt: export/quant_utils.py to_quantized_weight,
// qtensor/fp8_tensor.py. Powers of two: DeepSeek-V4 inference/kernel.py.)
// An amax of 0 gives scale 1 and codes that are zeros; a tile's amax below 2^-126 counts as that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"
#include "formats/fp8_block.h"

namespace nibblecast {

// Of the tensor's amax, or of its fused group's (scan_amax of nvfp4_quantize.h).
constexpr float fp8_tensor_scale(float amax) { return amax == 0 ? 1.0f : amax / 448.0f; }

// values finite, none above the scale's amax in magnitude.
void encode_fp8_tensor(const bf16* values, size_t count, float scale, uint8_t* codes);
void encode_fp8_tensor_ref(const bf16* values, size_t count, float scale, uint8_t* codes);

// Tile rows that `rows` begins with: values [rows, cols], finite -> codes [rows, cols], scales
// [ceil(rows / tile_rows), ceil(cols / tile_cols)] of E8M0 bytes or F32, which may be unaligned. A caller may
// divide a weight after any multiple of tile_rows.
struct Fp8Tiles {
  size_t rows = 0, cols = 0;
  size_t tile_rows = 128, tile_cols = 128;
  ScaleType scale_type = ScaleType::kF32;
};
void quantize_fp8_tiles(const bf16* values, const Fp8Tiles& tiles, uint8_t* codes, void* scales);
void quantize_fp8_tiles_ref(const bf16* values, const Fp8Tiles& tiles, uint8_t* codes, void* scales);

}  // namespace nibblecast
