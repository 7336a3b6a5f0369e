#include "formats/mxfp4_to_nvfp4.h"

#include <algorithm>
#include <cmath>

namespace nibblecast {

void CastScan::merge(const CastScan& other) {
  max_code = std::max(max_code, other.max_code);
  if (!nan_scale) nan_scale = other.nan_scale;
}

float CastScan::scale_2() const { return std::ldexp(1.0f, k_max() - 8); }

void CastCounts::merge(const CastCounts& other) {
  blocks += other.blocks;
  zero_blocks += other.zero_blocks;
  outside_window += other.outside_window;
}

CastScan scan_scales(const uint8_t* scales, size_t count) {
  CastScan scan;
  for (size_t i = 0; i < count; ++i) {
    if (scales[i] != 255)
      scan.max_code = std::max(scan.max_code, int{scales[i]});
    else if (!scan.nan_scale)
      scan.nan_scale = i;
  }
  return scan;
}

CastCounts cast_mxfp4_to_nvfp4(const Mxfp4View& source, size_t row, size_t count, int k_max,
                               NegativeZero negative_zero, uint8_t* codes, uint8_t* block_scales) {
  return cast_mxfp4_to_nvfp4_ref(source, row, count, k_max, negative_zero, codes, block_scales);
}

}  // namespace nibblecast
