#include "pipeline/verify_blocks.h"

#include <algorithm>
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

bool is_zero_block(const uint8_t* codes) {
  return std::all_of(codes, codes + kBlockBytes, [](uint8_t byte) { return (byte & 0x77) == 0; });
}

}  // namespace

// The formats' definitions (formats/mxfp4.h, nvfp4.h), evaluated once for every pair of codes.
struct BlockChecker::Tables {
  float source[256][16];     // [E8M0][E2M1]
  float output[256][16];     // [E4M3][E2M1], with the tensor's scale_2
  uint8_t block_scale[256];  // [E8M0]: what the cast's rule makes of it; none for 255

  Tables(float scale_2, int k_max) {
    for (int scale = 0; scale < 256; ++scale) {
      const float source_scale = decode_e8m0(static_cast<uint8_t>(scale));
      const float output_scale = decode_e4m3(static_cast<uint8_t>(scale)) * scale_2;
      for (int code = 0; code < 16; ++code) {
        source[scale][code] = decode_e2m1(static_cast<uint8_t>(code)) * source_scale;
        output[scale][code] = decode_e2m1(static_cast<uint8_t>(code)) * output_scale;
      }
    }
    // The rule looks at scale and window alone, so zeros will do.
    for (int scale = 0; scale < kNan; ++scale) {
      const uint8_t zeros[kBlockBytes] = {}, source_scale = static_cast<uint8_t>(scale);
      uint8_t codes[kBlockBytes], scales[2];
      cast_mxfp4_to_nvfp4_ref({.codes = zeros, .scales = &source_scale, .rows = 1, .cols = 32}, 0, 1, k_max,
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

  // Element by element; NaN equals nothing, -0 equals 0.
  bool values_equal() const {
    const float* const source = tables_.source[scale_];
    bool equal = true;
    for (size_t half = 0; half < 2; ++half) {
      const float* const output = tables_.output[out_scales_[half]];
      for (size_t byte = half * 8; byte < half * 8 + 8; ++byte) {
        equal &= source[in_[byte] & 15] == output[out_[byte] & 15];
        equal &= source[in_[byte] >> 4] == output[out_[byte] >> 4];
      }
    }
    return equal;
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
    if (pair_.negative_zero == NegativeZero::kKeep && std::memcmp(in_, out_, kBlockBytes) == 0) return;
    std::optional<size_t> wrong;
    for (size_t element = 0; element < 32; ++element) {
      const uint8_t in = nibble(in_, element), out = nibble(out_, element);
      const bool kept = in == 8 && out == 8, cleared = in == 8 && out == 0, set = in == 0 && out == 8;
      counts_.signs_kept += kept;
      counts_.signs_cleared += cleared;
      const bool right = !set && !(cleared && pair_.negative_zero == NegativeZero::kKeep) &&
                         !(kept && pair_.negative_zero == NegativeZero::kModelOpt);
      if (!right && !wrong) wrong = element;
    }
    if (!wrong) return;
    const bool clears = nibble(in_, *wrong) == 0 || pair_.negative_zero == NegativeZero::kModelOpt;
    fault(BlockFault::kZeroSign, *wrong, clears ? 0.0f : -0.0f, output_value(*wrong));
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
