#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "formats/fp8_to_mxfp4.h"
#include "formats/kernels.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 32;

// In double, where the product of a code and a scale of one bit is exact.
using Values = std::array<double, kBlock>;

std::optional<uint8_t> e2m1_code(double value) {
  for (uint8_t code = 0; code < 16; ++code) {
    const double number = decode_e2m1(code);
    if (number == value && std::signbit(number) == std::signbit(value)) return code;
  }
  return std::nullopt;
}

bool encode(const Values& values, int scale, uint8_t* codes) {
  for (size_t i = 0; i < kBlock; ++i) {
    const std::optional<uint8_t> code = e2m1_code(std::ldexp(values[i], 127 - scale));
    if (!code) return false;
    codes[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? *code : codes[i / 2] | *code << 4);
  }
  return true;
}

std::optional<uint8_t> cast_block(const Values& values, uint8_t* codes) {
  double amax = 0;
  for (const double value : values) {
    if (std::isnan(value)) return std::nullopt;
    amax = std::max(amax, std::fabs(value));
  }
  if (amax == 0) return encode(values, 0, codes) ? std::optional<uint8_t>(uint8_t{0}) : std::nullopt;
  int exponent = 0;
  std::frexp(amax, &exponent);
  // The larger scale first: the amax at 2 ... 3.9, and at 4 ... 7.9.
  for (const int scale : {exponent - 2 + 127, exponent - 3 + 127}) {
    const double at = std::ldexp(amax, 127 - scale);
    if (scale < 0 || scale > 252 || (at != 3 && at != 4 && at != 6)) continue;
    if (encode(values, scale, codes)) return static_cast<uint8_t>(scale);
  }
  return std::nullopt;
}

bool is_power_of_two(float scale) {
  int exponent = 0;
  return std::frexp(scale, &exponent) == 0.5f;
}

}  // namespace

std::optional<size_t> cast_fp8_to_mxfp4_ref(const Fp8BlockView& source, size_t row, size_t count,
                                            uint8_t* codes, uint8_t* scales) {
  assert(has_blocks_of_32(source.cols, source.tile_cols) && row + count <= source.rows);
  const size_t tiles_in_row = (source.cols + source.tile_cols - 1) / source.tile_cols;
  const size_t blocks_in_row = source.cols / kBlock;
  for (size_t block = 0; block < count * blocks_in_row; ++block) {
    const size_t r = row + block / blocks_in_row, col = block % blocks_in_row * kBlock;
    const float tile = fp8_tile_scale(source, r / source.tile_rows * tiles_in_row + col / source.tile_cols);
    Values values;
    bool is_zero = true;
    for (size_t i = 0; i < kBlock; ++i) {
      const float code = decode_e4m3(source.codes[r * source.cols + col + i]);
      is_zero &= code == 0;
      values[i] = double{code} * double{tile};
    }
    const bool scale_fits = is_zero ? std::isfinite(tile) && !std::signbit(tile) : is_power_of_two(tile);
    const auto scale = scale_fits ? cast_block(values, codes + block * (kBlock / 2)) : std::nullopt;
    if (!scale) return block;
    scales[block] = *scale;
  }
  return std::nullopt;
}

}  // namespace nibblecast
