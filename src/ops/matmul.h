// ops/matmul.h - the product under every linear and under attention: one tile, on the calling thread.
//
//   kOutputMajor: y[row, col] = sum over i of x[row, i] * w[col, i]     (w is [n, k]: how weights are stored)
//   kInputMajor:  y[row, col] = sum over i of x[row, i] * w[i, col]     (w is [k, n])
//   kPacked:      as kOutputMajor, w being a panel of ops/panel.h: n is kPanel; bf16 only, and only where
//                 packs_panels<bf16>()
//
// in     x [m, k] with `x_stride` elements between rows, 1 <= m <= kTileRows; w with `w_stride`
// out    y [m, n] F32, rows contiguous
// sums   FP32 over the whole of k inside the call, in an order that depends on n, k, layout, T and the CPU's
//        instruction set only, never on threads; with AVX-512 a row's result does not depend on m or on the
//        other rows either (rows_stand_alone(); oneDNN's AVX2 and AMX kernels sum some rows of some m in
//        another order)
// T      float; or bf16 by oneDNN's BF16 kernels (AMX, AVX-512 BF16), elsewhere widened to float
// errors kRefused when memory is short, kInternal when oneDNN refuses the product
//
// Rows are padded to a multiple of kRowStep, so that few kernels have to be made; kernels are kept per
// thread.
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

inline constexpr size_t kTileRows = 128;
inline constexpr size_t kRowStep = 16;

enum class WeightLayout { kOutputMajor, kInputMajor, kPacked };

struct TileShape {
  size_t m = 0, n = 0, k = 0;
  WeightLayout layout = WeightLayout::kOutputMajor;
};

template <class T>
void matmul_tile(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride, float* y);

// The definition: products and sums in double, rounded to float once.
template <class T>
void matmul_tile_ref(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride,
                     float* y);

// Whether matmul_tile<bf16> runs on BF16 instructions: the CPU has them and cpu_isa() is kAvx512.
bool has_bf16_products();
// Whether the CPU has AMX's for bf16 too, which oneDNN then takes: the same conditions.
bool has_amx_products();

// Whether a row's result does not depend on m, on the other rows, or on which outputs are made with it: with
// AVX-512, but for bf16 where it runs on AMX.
template <class T>
bool rows_stand_alone();

// Bytes that one thread may hold for products of at most `n` columns and a reduction of at most `k`.
template <class T>
size_t matmul_scratch_bytes(size_t n, size_t k);

}  // namespace nibblecast
