// Plain loops over the bytes of a block, which compilers make vectors of: more than 1 GB/s of codes on one
// core (bench/formats_bench.cpp), so that there is no version per instruction set.
#include "formats/fp8_to_mxfp4.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "formats/kernels.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 32;
constexpr int kMostScale = 252;

// The scale of a tile: 2^exponent, or another number.
struct TileScale {
  float value = 0;
  bool is_power_of_two = false;
  int exponent = 0;

  explicit TileScale(float scale) : value(scale) {
    is_power_of_two = std::frexp(scale, &exponent) == 0.5f;
    --exponent;
  }
  bool holds_zeros() const { return std::isfinite(value) && !std::signbit(value); }
};

// Without its last two bits, which must be 0, a normal E4M3 magnitude is 2e + b for (1 + b / 2) * 2^e, and an
// E2M1 magnitude from 1 on is so too. `six`: what stands for 6. False where a value has no code; where there
// are subnormal ones.
bool encode(const uint8_t* block, int six, uint8_t* codes) {
  const auto shift = static_cast<int16_t>(7 - six);
  int16_t numbers[kBlock];  // of 16 bits, which vectors can shift
  int16_t wrong = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const auto magnitude = static_cast<int16_t>(block[i] & 0x7f);
    const auto code = static_cast<int16_t>((magnitude >> 2) + shift);  // 0 stands for 0.5, 1 for 0.75
    const int misfits = (magnitude & 3) | (magnitude < 8) | (code < 0) | (code == 1);
    const int found = code | (code == 0);
    const int sign = (block[i] & 0x80) >> 4;
    numbers[i] = static_cast<int16_t>((magnitude == 0 ? 0 : found) | sign);
    wrong = static_cast<int16_t>(wrong | (magnitude == 0 ? 0 : misfits));
  }
  for (size_t j = 0; j < kBlock / 2; ++j)
    codes[j] = static_cast<uint8_t>(numbers[2 * j] | numbers[2 * j + 1] << 4);
  return wrong == 0;
}

bool cast_block(const uint8_t* block, const TileScale& tile, uint8_t* codes, uint8_t& scale) {
  uint8_t largest = 0;
  for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, static_cast<uint8_t>(block[i] & 0x7f));
  if (largest == 0) {
    scale = 0;
    return tile.holds_zeros() && encode(block, 0, codes);
  }
  const int least = largest >> 2 | 1;              // the largest is 6, or 4
  const int most = least + (largest & 4 ? 2 : 0);  // it is 3
  for (int six = most; tile.is_power_of_two && six >= least; six -= 2) {
    const int byte = six / 2 - 9 + tile.exponent + 127;
    scale = static_cast<uint8_t>(byte);
    if (byte >= 0 && byte <= kMostScale && encode(block, six, codes)) return true;
  }
  // Few blocks: of those that fit, the ones with subnormal codes.
  const Fp8BlockView alone = {
      .codes = block, .scales = &tile.value, .scale_type = ScaleType::kF32, .rows = 1, .cols = kBlock};
  return !cast_fp8_to_mxfp4_ref(alone, 0, 1, codes, &scale);
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
