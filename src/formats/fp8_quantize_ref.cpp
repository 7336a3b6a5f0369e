#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/fp8_quantize.h"
#include "formats/kernels.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

uint8_t encode_saturating(float x) { return encode_e4m3(std::clamp(x, -448.0f, 448.0f)); }

// The byte of the least power of two that is at least amax / 448. 448 is 1.75 * 2^8.
uint8_t e8m0_scale(float amax) {
  if (amax == 0) return 127;
  int exponent = 0;
  const float fraction = std::frexp(amax, &exponent);  // amax = fraction * 2^exponent, fraction in [0.5, 1)
  return static_cast<uint8_t>(std::max(0, exponent - 9 + (fraction > 0.875f ? 1 : 0) + 127));
}

}  // namespace

float store_fp8_scale(float amax, ScaleType type, size_t tile, void* scales) {
  auto* to = static_cast<uint8_t*>(scales);
  if (type == ScaleType::kE8M0) return decode_e8m0(to[tile] = e8m0_scale(amax));
  const float scale = fp8_tensor_scale(amax == 0 ? 0 : std::max(amax, std::numeric_limits<float>::min()));
  std::memcpy(to + tile * sizeof scale, &scale, sizeof scale);
  return scale;
}

void encode_fp8_tensor_ref(const bf16* values, size_t count, float scale, uint8_t* codes) {
  for (size_t i = 0; i < count; ++i)
    codes[i] = encode_saturating(to_float(to_bf16(to_float(values[i]) / scale)));
}

void quantize_fp8_tiles_ref(const bf16* values, const Fp8Tiles& tiles, uint8_t* codes, void* scales) {
  size_t tile = 0;
  for (size_t top = 0; top < tiles.rows; top += tiles.tile_rows) {
    for (size_t left = 0; left < tiles.cols; left += tiles.tile_cols, ++tile) {
      const size_t bottom = std::min(top + tiles.tile_rows, tiles.rows);
      const size_t right = std::min(left + tiles.tile_cols, tiles.cols);
      float amax = 0;
      for (size_t row = top; row < bottom; ++row) {
        for (size_t col = left; col < right; ++col)
          amax = std::max(amax, std::fabs(to_float(values[row * tiles.cols + col])));
      }
      const float scale = store_fp8_scale(amax, tiles.scale_type, tile, scales);
      for (size_t row = top; row < bottom; ++row) {
        for (size_t i = row * tiles.cols + left; i < row * tiles.cols + right; ++i)
          codes[i] = encode_saturating(to_float(values[i]) / scale);
      }
    }
  }
}

}  // namespace nibblecast
