#include "formats/fp8_block.h"

#include <algorithm>
#include <cassert>

#include "base/cpu_isa.h"
#include "formats/kernels.h"

namespace nibblecast {
namespace {

#if NIBBLECAST_X86_KERNELS
template <class T>
using ScaleE4m3 = void (*)(const uint8_t*, size_t, float, T*);

// One call per row and tile.
template <class T>
void scale_tiles(ScaleE4m3<T> scale_e4m3, const Fp8BlockView& weight, size_t row, size_t count, T* out,
                 size_t out_stride) {
  const size_t tiles_in_row = (weight.cols + weight.tile_cols - 1) / weight.tile_cols;
  for (size_t r = 0; r < count; ++r) {
    const uint8_t* codes = weight.codes + (row + r) * weight.cols;
    size_t tile = (row + r) / weight.tile_rows * tiles_in_row;
    for (size_t col = 0; col < weight.cols; col += weight.tile_cols, ++tile) {
      scale_e4m3(codes + col, std::min(weight.tile_cols, weight.cols - col), fp8_tile_scale(weight, tile),
                 out + r * out_stride + col);
    }
  }
}
#endif

}  // namespace

template <class T>
void dequantize_fp8_block(const Fp8BlockView& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(row + count <= weight.rows && out_stride >= weight.cols);
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return scale_tiles<T>(scale_e4m3_avx512, weight, row, count, out, out_stride);
    case CpuIsa::kAvx2:
      return scale_tiles<T>(scale_e4m3_avx2, weight, row, count, out, out_stride);
    case CpuIsa::kScalar:
      break;
  }
#endif
  dequantize_fp8_block_ref(weight, row, count, out, out_stride);
}

template void dequantize_fp8_block(const Fp8BlockView&, size_t, size_t, float*, size_t);
template void dequantize_fp8_block(const Fp8BlockView&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
