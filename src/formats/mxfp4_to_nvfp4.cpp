// The nibbles are copied and the scales looked up, both in portable code: one core moves about as many
// bytes with it as memcpy does (bench/formats_bench.cpp), so it has no version per instruction set.
#include "formats/mxfp4_to_nvfp4.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlockBytes = 16;      // 32 nibbles
constexpr size_t kMaxRunBlocks = 1024;  // keeps a run in the first-level cache between its steps

// For each E8M0 byte the two E4M3 bytes of its block's halves.
using BlockScales = std::array<std::array<uint8_t, 2>, 256>;

BlockScales make_block_scales(int k_max) {
  BlockScales table;
  for (int byte = 0; byte < 256; ++byte) {
    const float exact = std::ldexp(1.0f, byte - 127 - (k_max - 8));
    table[byte].fill(encode_e4m3(std::clamp(exact, 0x1p-9f, 448.0f)));
  }
  return table;
}

// Makes every nibble 8 a 0. Bit 3 of `nonzero` is set in the nibbles whose magnitude is not zero: 7 added to
// 1 ... 7 reaches it and never carries out of the nibble. `to` may be `from`.
void clear_negative_zeros(const uint8_t* from, size_t size, uint8_t* to) {
  constexpr uint64_t kMagnitude = 0x7777777777777777;
  for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, from + i, sizeof word);
    const uint64_t nonzero = (word & kMagnitude) + kMagnitude;
    word &= nonzero | kMagnitude;
    std::memcpy(to + i, &word, sizeof word);
  }
}

size_t in_window_run(const uint8_t* scales, size_t count, int k_max) {
  const auto outside = [k_max](uint8_t scale) { return !in_cast_window(scale, k_max); };
  return std::find_if(scales, scales + count, outside) - scales;
}

}  // namespace

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
  uint8_t max_code_plus_1 = 0;  // 255 + 1 is 0
  for (size_t i = 0; i < count; ++i)
    max_code_plus_1 = std::max(max_code_plus_1, static_cast<uint8_t>(scales[i] + 1));
  scan.max_code = std::max(0, max_code_plus_1 - 1);
  scan.nan_scale = find_nan_scale(scales, count);
  return scan;
}

std::optional<size_t> find_nan_scale(const uint8_t* scales, size_t count) {
  const void* nan = count == 0 ? nullptr : std::memchr(scales, 255, count);
  if (nan == nullptr) return std::nullopt;
  return static_cast<size_t>(static_cast<const uint8_t*>(nan) - scales);
}

CastCounts cast_mxfp4_to_nvfp4(const Mxfp4View& source, size_t row, size_t count, int k_max,
                               NegativeZero negative_zero, uint8_t* codes, uint8_t* block_scales) {
  assert(source.cols % 32 == 0 && row + count <= source.rows);
  const BlockScales table = make_block_scales(k_max);
  const size_t blocks_in_row = source.cols / 32, blocks = count * blocks_in_row;
  // Rows follow each other without gaps, so from here on a row is one block.
  const Mxfp4View from = {source.codes + row * blocks_in_row * kBlockBytes,
                          source.scales + row * blocks_in_row, blocks, 32};
  CastCounts counts;
  for (size_t block = 0; block < blocks;) {
    const uint8_t* from_codes = from.codes + block * kBlockBytes;
    uint8_t* to_codes = codes + block * kBlockBytes;
    const size_t run = in_window_run(from.scales + block, std::min(blocks - block, kMaxRunBlocks), k_max);
    if (run == 0) {
      counts.merge(
          cast_mxfp4_to_nvfp4_ref(from, block, 1, k_max, negative_zero, to_codes, block_scales + 2 * block));
      ++block;
      continue;
    }
    if (negative_zero == NegativeZero::kModelOpt)
      clear_negative_zeros(from_codes, run * kBlockBytes, to_codes);
    else if (to_codes != from_codes)
      std::memcpy(to_codes, from_codes, run * kBlockBytes);
    for (size_t i = block; i < block + run; ++i) std::memcpy(block_scales + 2 * i, &table[from.scales[i]], 2);
    counts.blocks += run;
    block += run;
  }
  return counts;
}

}  // namespace nibblecast
