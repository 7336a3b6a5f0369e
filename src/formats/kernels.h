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

// The scale of a tile by its index in `weight.scales`. Every NaN is the one quiet NaN 0x7fc00000, so that a
// product has the same bits whichever operand a compiler puts first.
float fp8_tile_scale(const Fp8BlockView& weight, size_t tile);

// bits[scale][code]: the value as BF16 bits. Exact, so the upper half of the value in F32 too.
struct Mxfp4Values {
  alignas(64) uint16_t bits[256][16];
};

#if NIBBLECAST_X86_KERNELS
// out[32 * blocks] = the values of `blocks` consecutive MXFP4 blocks.
void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       float* out);
void decode_mxfp4_avx2(const uint8_t* codes, const uint8_t* scales, size_t blocks, const Mxfp4Values& values,
                       bf16* out);
void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, float* out);
void decode_mxfp4_avx512(const uint8_t* codes, const uint8_t* scales, size_t blocks,
                         const Mxfp4Values& values, bf16* out);

// out[i] = e4m3(codes[i]) * scale, i < count. `scale` is no other NaN than 0x7fc00000.
void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, float* out);
void scale_e4m3_avx2(const uint8_t* codes, size_t count, float scale, bf16* out);
void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, float* out);
void scale_e4m3_avx512(const uint8_t* codes, size_t count, float scale, bf16* out);
#endif

}  // namespace nibblecast
