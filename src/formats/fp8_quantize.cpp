#include "formats/fp8_quantize.h"

#include <algorithm>

#include "base/cpu_isa.h"
#include "formats/kernels.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast {
namespace {

using Encode = void (*)(const bf16* values, size_t count, float scale, bool through_bf16, uint8_t* codes);

Encode encoder() {
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return encode_e4m3_avx512;
    case CpuIsa::kAvx2:
      return encode_e4m3_avx2;
    case CpuIsa::kScalar:
      break;
  }
#endif
  return nullptr;
}

}  // namespace

void encode_fp8_tensor(const bf16* values, size_t count, float scale, uint8_t* codes) {
  if (const Encode encode = encoder()) return encode(values, count, scale, true, codes);
  encode_fp8_tensor_ref(values, count, scale, codes);
}

void quantize_fp8_tiles(const bf16* values, const Fp8Tiles& tiles, uint8_t* codes, void* scales) {
  const Encode encode = encoder();
  if (encode == nullptr) return quantize_fp8_tiles_ref(values, tiles, codes, scales);
  size_t tile = 0;
  for (size_t top = 0; top < tiles.rows; top += tiles.tile_rows) {
    const size_t bottom = std::min(top + tiles.tile_rows, tiles.rows);
    for (size_t left = 0; left < tiles.cols; left += tiles.tile_cols, ++tile) {
      const size_t count = std::min(tiles.tile_cols, tiles.cols - left);
      AmaxScan scan;
      for (size_t row = top; row < bottom; ++row)
        scan.merge(scan_amax(values + row * tiles.cols + left, count));
      const float scale = store_fp8_scale(scan.amax, tiles.scale_type, tile, scales);
      for (size_t row = top; row < bottom; ++row) {
        const size_t at = row * tiles.cols + left;
        encode(values + at, count, scale, false, codes + at);
      }
    }
  }
}

}  // namespace nibblecast
