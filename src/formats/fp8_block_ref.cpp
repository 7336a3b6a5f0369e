#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/f16.h"
#include "formats/fp8_block.h"
#include "formats/kernels.h"
#include "formats/nvfp4.h"

namespace nibblecast {

float stored_scale(const void* scales, ScaleType type, size_t index) {
  const auto* bytes = static_cast<const uint8_t*>(scales);
  if (type == ScaleType::kE8M0) return decode_e8m0(bytes[index]);
  float scale = 0;
  if (type == ScaleType::kBF16) {
    bf16 narrow;
    std::memcpy(&narrow.bits, bytes + index * sizeof narrow, sizeof narrow);
    scale = to_float(narrow);
  } else if (type == ScaleType::kF16) {
    f16 narrow;
    std::memcpy(&narrow.bits, bytes + index * sizeof narrow, sizeof narrow);
    scale = to_float(narrow);
  } else {
    std::memcpy(&scale, bytes + index * sizeof(float), sizeof(float));
  }
  return std::isnan(scale) ? std::numeric_limits<float>::quiet_NaN() : scale;
}

float fp8_tile_scale(const Fp8BlockView& weight, size_t tile) {
  return stored_scale(weight.scales, weight.scale_type, tile);
}

template <class T>
void dequantize_fp8_block_ref(const Fp8BlockView& weight, size_t row, size_t count, T* out,
                              size_t out_stride) {
  assert(row + count <= weight.rows && out_stride >= weight.cols);
  const size_t tiles_in_row = (weight.cols + weight.tile_cols - 1) / weight.tile_cols;
  for (size_t r = 0; r < count; ++r) {
    for (size_t col = 0; col < weight.cols; ++col) {
      const size_t tile = (row + r) / weight.tile_rows * tiles_in_row + col / weight.tile_cols;
      const float value = decode_e4m3(weight.codes[(row + r) * weight.cols + col]);
      out[r * out_stride + col] = from_float<T>(value * fp8_tile_scale(weight, tile));
    }
  }
}

template void dequantize_fp8_block_ref(const Fp8BlockView&, size_t, size_t, float*, size_t);
template void dequantize_fp8_block_ref(const Fp8BlockView&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
