#include "pipeline/verify_blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlockBytes = 16;  // 32 nibbles under one E8M0 scale, or two E4M3 scales
constexpr uint8_t kNan = 255;

uint8_t nibble(const uint8_t* codes, size_t element) {
  return element % 2 == 0 ? codes[element / 2] & 15 : codes[element / 2] >> 4;
}

bool is_nan_e4m3(uint8_t code) { return (code & 0x7f) == 0x7f; }

// 16 nibbles, the first in the lowest bits.
uint64_t load_word(const uint8_t* codes) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t word;
  std::memcpy(&word, codes, sizeof word);
  return word;
}

// The sign bit of each nibble that is -0 (8).
uint64_t negative_zeros(uint64_t word) {
  const uint64_t nonzero = (word | word >> 1 | word >> 2) & 0x1111111111111111;
  return word & 0x8888888888888888 & ~(nonzero << 3);
}

bool is_zero_block(const uint8_t* codes) {
  return std::all_of(codes, codes + kBlockBytes, [](uint8_t byte) { return (byte & 0x77) == 0; });
}

}  // namespace

// The formats' definitions (formats/mxfp4.h, nvfp4.h), evaluated once for every pair of codes.
struct BlockChecker::Tables {
  float source_scale[256];   // of E8M0
  float output_scale[256];   // of E4M3, times the tensor's scale_2
  float source[256][16];     // [E8M0][E2M1]
  float output[256][16];     // [E4M3][E2M1]
  uint8_t block_scale[256];  // [E8M0]: what the cast's rule makes of it; none for 255

  Tables(float scale_2, int k_max) {
    for (int scale = 0; scale < 256; ++scale) {
      source_scale[scale] = decode_e8m0(static_cast<uint8_t>(scale));
      output_scale[scale] = decode_e4m3(static_cast<uint8_t>(scale)) * scale_2;
      for (int code = 0; code < 16; ++code) {
        source[scale][code] = decode_e2m1(static_cast<uint8_t>(code)) * source_scale[scale];
        output[scale][code] = decode_e2m1(static_cast<uint8_t>(code)) * output_scale[scale];
      }
    }
    // The rule looks at scale and window alone, so zeros will do.
    for (int scale = 0; scale < kNan; ++scale) {
      const uint8_t zeros[kBlockBytes] = {}, code = static_cast<uint8_t>(scale);
      uint8_t codes[kBlockBytes], scales[2];
      cast_mxfp4_to_nvfp4_ref({.codes = zeros, .scales = &code, .rows = 1, .cols = 32}, 0, 1, k_max,
                              NegativeZero::kKeep, codes, scales);
      block_scale[scale] = scales[0];
    }
    block_scale[kNan] = kNan;
  }
};

// One pass over some rows.
class BlockChecker::Rows {
 public:
  Rows(const CastPair& pair, const Tables& tables) : pair_(pair), tables_(tables) {}

  BlockCounts check(uint64_t first_row, uint64_t count) {
    const size_t blocks_in_row = pair_.source.cols / 32;
    for (uint64_t row = first_row; row < first_row + count; ++row) {
      for (size_t block = 0; block < blocks_in_row; ++block)
        check_block(row, block, row * blocks_in_row + block);
    }
    counts_.blocks = count * blocks_in_row;
    return counts_;
  }

 private:
  void check_block(uint64_t row, size_t block_in_row, size_t block) {
    row_ = row;
    col_ = block_in_row * 32;
    scale_ = pair_.source.scales[block];
    in_ = pair_.source.codes + block * kBlockBytes;
    out_ = pair_.codes + block * kBlockBytes;
    out_scales_ = pair_.block_scales + block * 2;

    const bool identical = values_equal();
    counts_.identical += identical;
    const bool in_window = in_cast_window(scale_, pair_.k_max) || (scale_ == 0 && is_zero_block(in_));
    counts_.requantized += !in_window;
    if (!scales_right()) return;
    if (!in_window) {
      check_requantized();
    } else if (!identical) {
      fault(BlockFault::kValue, first_difference());
    } else {
      check_zero_signs();
    }
  }

  bool values_equal() const { return same_products() || same_values(); }

  // The same numbers times the same scale: most blocks are done with here.
  bool same_products() const {
    const float scale = tables_.source_scale[scale_];
    bool same = true;
    for (size_t half = 0; half < 2; ++half) {
      const uint64_t in = load_word(in_ + 8 * half), out = load_word(out_ + 8 * half);
      same &= scale == tables_.output_scale[out_scales_[half]];
      same &= (in ^ negative_zeros(in)) == (out ^ negative_zeros(out));
    }
    return same;
  }

  // Element by element; NaN equals nothing, -0 equals 0.
  bool same_values() const {
    for (size_t element = 0; element < 32; ++element) {
      if (!(source_value(element) == output_value(element))) return false;
    }
    return true;
  }

  bool scales_right() {
    if (scale_ == kNan) {
      fault(BlockFault::kSourceScaleNan, 0);
      return false;
    }
    const uint8_t right = tables_.block_scale[scale_];
    for (size_t half = 0; half < 2; ++half) {
      const uint8_t found = out_scales_[half];
      if (found == right) continue;
      const BlockFault kind = is_nan_e4m3(found) ? BlockFault::kScaleNan
                              : found >= 0x80    ? BlockFault::kScaleNegative
                                                 : BlockFault::kScale;
      fault(kind, half * 16, decode_e4m3(right), decode_e4m3(found));
      return false;
    }
    return true;
  }

  void check_requantized() {
    uint8_t codes[kBlockBytes], scales[2];
    cast_mxfp4_to_nvfp4_ref({.codes = in_, .scales = &scale_, .rows = 1, .cols = 32}, 0, 1, pair_.k_max,
                            NegativeZero::kKeep, codes, scales);
    if (is_zero_block(out_) && !is_zero_block(in_)) ++counts_.zeroed;
    for (size_t element = 0; element < 32; ++element) {
      const double value = source_value(element), error = std::fabs(output_value(element) - value);
      counts_.value_squared += value * value;
      counts_.error_squared += error * error;
      counts_.largest_error = std::max(counts_.largest_error, error);
    }
    const auto wrong = std::mismatch(codes, codes + kBlockBytes, out_).first - codes;
    if (wrong == kBlockBytes) return;
    const size_t element = 2 * wrong + (nibble(codes, 2 * wrong) == nibble(out_, 2 * wrong) ? 1 : 0);
    fault(BlockFault::kRequantized, element,
          tables_.output[out_scales_[element / 16]][nibble(codes, element)], output_value(element));
  }

  // Of a block with the source's values and scale: only zeros can differ, in their sign.
  void check_zero_signs() {
    for (size_t half = 0; half < 2; ++half) {
      const uint64_t in = negative_zeros(load_word(in_ + 8 * half)),
                     out = negative_zeros(load_word(out_ + 8 * half));
      const uint64_t kept = in & out, cleared = in & ~out;
      counts_.signs_kept += static_cast<uint64_t>(std::popcount(kept));
      counts_.signs_cleared += static_cast<uint64_t>(std::popcount(cleared));
      uint64_t wrong = out & ~in;
      if (pair_.negative_zero == NegativeZero::kKeep) wrong |= cleared;
      if (pair_.negative_zero == NegativeZero::kModelOpt) wrong |= kept;
      if (wrong == 0) continue;
      const auto bit = static_cast<uint64_t>(std::countr_zero(wrong));
      fault(BlockFault::kZeroSign, 16 * half + bit / 4, out >> bit & 1 ? 0.0f : -0.0f,
            out >> bit & 1 ? -0.0f : 0.0f);
      return;
    }
  }

  size_t first_difference() const {
    size_t element = 0;
    while (element < 31 && source_value(element) == output_value(element)) ++element;
    return element;
  }

  float source_value(size_t element) const { return tables_.source[scale_][nibble(in_, element)]; }
  float output_value(size_t element) const {
    return tables_.output[out_scales_[element / 16]][nibble(out_, element)];
  }

  void fault(BlockFault kind, size_t element) {
    fault(kind, element, source_value(element), output_value(element));
  }
  void fault(BlockFault kind, size_t element, float expected, float found) {
    FaultCount& count = counts_.faults[static_cast<size_t>(kind)];
    if (count.blocks++ > 0) return;
    count = {.blocks = 1, .row = row_, .col = col_ + element, .expected = expected, .found = found};
  }

  const CastPair& pair_;
  const Tables& tables_;
  BlockCounts counts_;
  // The block under check.
  uint64_t row_ = 0, col_ = 0;
  uint8_t scale_ = 0;
  const uint8_t* in_ = nullptr;
  const uint8_t* out_ = nullptr;
  const uint8_t* out_scales_ = nullptr;
};

void BlockCounts::merge(const BlockCounts& later) {
  blocks += later.blocks;
  identical += later.identical;
  requantized += later.requantized;
  zeroed += later.zeroed;
  signs_kept += later.signs_kept;
  signs_cleared += later.signs_cleared;
  error_squared += later.error_squared;
  value_squared += later.value_squared;
  largest_error = std::max(largest_error, later.largest_error);
  for (size_t fault = 0; fault < kBlockFaults; ++fault) {
    const uint64_t sum = faults[fault].blocks + later.faults[fault].blocks;
    if (faults[fault].blocks == 0) faults[fault] = later.faults[fault];
    faults[fault].blocks = sum;
  }
}

BlockChecker::BlockChecker(const CastPair& pair)
    : pair_(pair), tables_(std::make_shared<const Tables>(pair.scale_2, pair.k_max)) {}

BlockCounts BlockChecker::check(uint64_t row, uint64_t count) const {
  return Rows(pair_, *tables_).check(row, count);
}

}  // namespace nibblecast
