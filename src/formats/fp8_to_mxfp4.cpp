// Two table look-ups and a comparison a value: TODO GB/s of codes on one core, so that it has no version per
// instruction set.
#include "formats/fp8_to_mxfp4.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "formats/kernels.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 32;
constexpr int kMostScale = 252;
constexpr uint8_t kNoCode = 0x80;
// The exponents k of scales that put E4M3's magnitudes, 2^-9 ... 448, at 3, 4 or 6.
constexpr int kLeastExponent = -11, kMostExponent = 7;

struct Tables {
  // [k - kLeastExponent][E4M3 code]: the E2M1 code of the same value under 2^k; kNoCode where there is none.
  uint8_t codes[kMostExponent - kLeastExponent + 1][256];
  // [magnitude's code]: the exponents to be tried for a block's largest, `most` first.
  int8_t most[128], least[128];

  Tables() {
    for (int k = kLeastExponent; k <= kMostExponent; ++k) fill(k, codes[k - kLeastExponent]);
    for (int code = 0; code < 128; ++code) {
      int exponent = 0;  // of no matter for 0 and NaN
      const bool is_number = code != 0 && code != 0x7f;
      const float half = is_number ? std::frexp(decode_e4m3(static_cast<uint8_t>(code)), &exponent) : 0.5f;
      least[code] = static_cast<int8_t>(is_number ? exponent - 3 : 0);  // the value at 4 ... 7
      most[code] = static_cast<int8_t>(least[code] + (half == 0.75f));  // 6, or 3
    }
  }

  static void fill(int k, uint8_t* row) {
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<uint8_t>(code);
      const float value = std::ldexp(decode_e4m3(byte), -k);
      row[code] = kNoCode;
      for (uint8_t magnitude = 0; magnitude < 8; ++magnitude) {
        if (decode_e2m1(magnitude) == std::fabs(value))
          row[code] = static_cast<uint8_t>(magnitude | (byte & 0x80) >> 4);
      }
    }
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

// The scale of a tile: 2^exponent, or another number.
struct TileScale {
  bool holds_zeros = false, is_power_of_two = false;
  int exponent = 0;

  explicit TileScale(float scale) : holds_zeros(std::isfinite(scale) && !std::signbit(scale)) {
    is_power_of_two = std::frexp(scale, &exponent) == 0.5f;
    --exponent;
  }
};

// False where a value has no code in `table`.
bool encode(const uint8_t* block, const uint8_t* table, uint8_t* codes) {
  uint8_t all = 0;
  for (size_t j = 0; j < kBlock / 2; ++j) {
    const uint8_t low = table[block[2 * j]], high = table[block[2 * j + 1]];
    all = static_cast<uint8_t>(all | low | high);
    codes[j] = static_cast<uint8_t>(low | high << 4);
  }
  return (all & kNoCode) == 0;
}

bool cast_block(const uint8_t* block, const TileScale& tile, uint8_t* codes, uint8_t& scale) {
  uint8_t largest = 0;
  for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, static_cast<uint8_t>(block[i] & 0x7f));
  if (largest == 0) {
    scale = 0;
    return tile.holds_zeros && encode(block, tables().codes[0], codes);
  }
  if (!tile.is_power_of_two) return false;
  for (int k = tables().most[largest]; k >= tables().least[largest]; --k) {
    const int byte = k + tile.exponent + 127;
    if (byte < 0 || byte > kMostScale) continue;
    scale = static_cast<uint8_t>(byte);
    if (encode(block, tables().codes[k - kLeastExponent], codes)) return true;
  }
  return false;
}

}  // namespace

std::optional<size_t> cast_fp8_to_mxfp4(const Fp8BlockView& source, size_t row, size_t count, uint8_t* codes,
                                        uint8_t* scales) {
  assert(has_blocks_of_32(source.cols, source.tile_cols) && row + count <= source.rows);
  const size_t tiles_in_row = (source.cols + source.tile_cols - 1) / source.tile_cols;
  size_t block = 0;
  for (size_t r = row; r < row + count; ++r) {
    size_t tile = r / source.tile_rows * tiles_in_row;
    for (size_t begin = 0; begin < source.cols; begin += source.tile_cols, ++tile) {
      const TileScale scale(fp8_tile_scale(source, tile));
      const size_t end = std::min(source.cols, begin + source.tile_cols);
      for (size_t col = begin; col < end; col += kBlock, ++block) {
        if (!cast_block(source.codes + r * source.cols + col, scale, codes + block * (kBlock / 2),
                        scales[block]))
          return block;
      }
    }
  }
  return std::nullopt;
}

}  // namespace nibblecast
