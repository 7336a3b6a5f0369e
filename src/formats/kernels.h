// formats/kernels.h - what the files of this folder share. Not for other folders.
//
// Kernels of one instruction set are compiled with its flags, so their files use no inline function of a
// shared header: the linker might keep that copy for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/fp8_block.h"

#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
#define NIBBLECAST_X86_KERNELS 1
#else
#define NIBBLECAST_X86_KERNELS 0
#endif

namespace nibblecast {

// A scale by its index. Every NaN is the one quiet NaN 0x7fc00000, so that a product has the same bits
// whichever operand a compiler puts first.
float stored_scale(const void* scales, ScaleType type, size_t index);
float fp8_tile_scale(const Fp8BlockView& weight, size_t tile);

// Writes the scale of a tile of this amax as quantize_fp8_tiles does; returns its value.
float store_fp8_scale(float amax, ScaleType type, size_t tile, void* scales);

// Returns how many values (other than NaN) have a BF16 that differs.
uint64_t narrow_to_bf16(const float* values, size_t count, bf16* out);

// bits[scale][code]: the value as BF16 bits. Exact, so the upper half of the value in F32 too.
struct Mxfp4Values {
  alignas(64) uint16_t bits[256][16];
};

// What a sweep over the 126 block scales of a group looks at (formats/nvfp4_sweep.h).
inline constexpr size_t kSweepScales = 126;  // ascending
inline constexpr size_t kSweepRow = 128;     // with two more, so that rows lie at 64 bytes
struct SweepScales {
  alignas(64) float scales[kSweepRow];  // the two more are 1, which no sweep chooses
  alignas(64) float limits[kSweepRow];  // 6 * scale; of the two more infinite
  bool doubles = false;                 // scales[k + 8] == 2 * scales[k] for k >= 7
};

// The squared error of a BF16 magnitude depends on the scale and nothing else. Magnitudes below the first row
// become 0 under every scale, so their error is their square.
struct MseRows {
  uint32_t first = 0, rows = 0;    // BF16 bits of the first row's magnitude; how many follow. At least one
  const float* errors = nullptr;   // [rows, 128], at 64 bytes
  const uint8_t* start = nullptr;  // [rows]: the first scale under which the magnitude is at most 6, or 125
};

// The parts of Nvfp4Quantizer::encode, over consecutive blocks of 16 values of a type.
template <class T>
struct Nvfp4ValueKernels {
  void (*block_amax)(const T* values, size_t blocks, float* amax);
  // losses[b]: of block b with scales[b], as sum_of_16 of squared_error.
  void (*block_losses)(const T* values, const float* scales, size_t blocks, float* losses);
  void (*encode)(const T* values, const float* divisors, size_t blocks, uint8_t* codes);
  // Adds to the 16 partial sums of RowLoss.
  void (*add_losses)(const T* values, const float* decoded, size_t blocks, double* errors, double* squares);
};

struct Nvfp4Kernels {
  Nvfp4ValueKernels<bf16> narrow;
  Nvfp4ValueKernels<float> wide;
  // row[i] = squared_error(magnitude, scales[i]), i < 128.
  void (*error_row)(float magnitude, const float* scales, float* row);
  // picks[b]: index of the scale of least loss, the first of equals. weights [16 * blocks]: each squared
  // error times that of its value; null: plain.
  void (*sweep)(const bf16* values, size_t blocks, const MseRows& table, const SweepScales& scales,
                const float* weights, uint8_t* picks);
  // The same without a table.
  void (*sweep_wide)(const float* values, size_t blocks, const SweepScales& scales, const float* weights,
                     uint8_t* picks);
  // out[16 * blocks] = the values; scales[byte]: e4m3(byte) * scale_2.
  void (*decode)(const uint8_t* codes, const uint8_t* block_scales, size_t blocks, const float* scales,
                 float* out);
};

#if NIBBLECAST_X86_KERNELS
extern const Nvfp4Kernels kNvfp4Avx2, kNvfp4Avx512;

// out[32 * blocks] = the values of `blocks` consecutive MXFP4 blocks.
void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       float* out);
void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       bf16* out);
void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, float* out);
void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, bf16* out);

// out[16 * blocks] = the values of consecutive NVFP4 blocks; scales[byte]: e4m3(byte) * scale_2.
void decode_nvfp4_avx2(const uint8_t* codes, const uint8_t* block_scales, size_t blocks, const float* scales,
                       float* out);
void decode_nvfp4_avx512(const uint8_t* codes, const uint8_t* block_scales, size_t blocks,
                         const float* scales, float* out);

// codes[i] = E4M3(values[i] / scale), or E4M3(bf16(values[i] / scale)).
void encode_e4m3_avx2(const bf16* values, size_t count, float scale, bool through_bf16, uint8_t* codes);
void encode_e4m3_avx512(const bf16* values, size_t count, float scale, bool through_bf16, uint8_t* codes);

uint64_t narrow_avx2(const float* values, size_t count, bf16* out);
uint64_t narrow_avx512(const float* values, size_t count, bf16* out);

// out[i] = e4m3(codes[i]) * scale, i < count. `scale` is no other NaN than 0x7fc00000.
void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, float* out);
void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, bf16* out);
void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, float* out);
void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, bf16* out);

// out[i] = (nibble i - 8) * scale, i < count, a multiple of 8. `scale` is no other NaN than 0x7fc00000.
void scale_int4_avx2(const uint8_t* codes, size_t count, float scale, float* out);
void scale_int4_avx512(const uint8_t* codes, size_t count, float scale, float* out);
#endif

}  // namespace nibblecast
