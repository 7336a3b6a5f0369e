// formats/mxfp4_to_nvfp4.h - the cast of MXFP4 experts to NVFP4 that changes no value.
//
// An MXFP4 block's scale is 2^k (k = E8M0 byte - 127, one byte per 32). An NVFP4 block scale is E4M3 per 16
// times a global scale 2^m. With m = k_max - 8, k_max the largest k of the group (w1 and w3 of an expert
// together; w2 alone) over blocks whose byte is not 0, every block with k_max - k <= 17 has the exact block
// scale 2^(k - m) (2^-9 ... 2^8 are E4M3 numbers), and its nibbles stay as they are. If every byte of the
// group is 0, k_max = 0. (NVIDIA ModelOpt `--cast_mxfp4_to_nvfp4`, examples/deepseek/deepseek_v4.)
//
// A block outside the window (k_max - k > 17) gets block scale 2^-9 (E4M3 0x01), the least there is, and
// its nibbles are requantized: value / (2^-9 * 2^m), encode_e2m1 (so its -0 becomes 0). Such blocks are
// counted. ModelOpt decides by the tensor's own k_max which amax such a block has, but clamps all of them
// to 2^-9 either way, so the shared window gives its bytes.
// Byte 0 with all nibbles zero: a zero block, block scale as the rule above makes it (0x01 when
// k_max >= -109, else 2^(-127 - m)), counted lossless. Byte 0 with other nibbles: outside the window
// (counted), bytes by the same rule. Byte 255 is refused by the caller: see CastScan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "formats/mxfp4.h"

namespace nibblecast {

// What a look at the scales tells; scan both members of a group and merge.
struct CastScan {
  int max_code = 0;                 // largest E8M0 byte seen that is not 0 and not 255; 0: none seen
  std::optional<size_t> nan_scale;  // index of the first byte 255

  void merge(const CastScan& other);  // nan_scale: this one's if it has one
  int k_max() const { return max_code == 0 ? 0 : max_code - 127; }
  float scale_2() const;  // 2^(k_max - 8), exact (may be subnormal)
};
CastScan scan_scales(const uint8_t* scales, size_t count);
// nan_scale of the same, alone: at the rate of memory.
std::optional<size_t> find_nan_scale(const uint8_t* scales, size_t count);

enum class NegativeZero {
  kKeep,      // nibble 8 stays: the nibbles are the source's bytes
  kModelOpt,  // nibble 8 becomes 0, as ModelOpt's dequantize-and-encode makes it
};

struct CastCounts {
  uint64_t blocks = 0;          // MXFP4 blocks of 32
  uint64_t zero_blocks = 0;     // byte 0, all nibbles zero; lossless
  uint64_t outside_window = 0;  // requantized
  void merge(const CastCounts& other);
  bool operator==(const CastCounts&) const = default;
};

// Rows [row, row + count) of `source`; `codes` [count, cols / 2] and `block_scales` [count, cols / 16] may
// be unaligned; `codes` may be exactly where the source's rows begin (in place). Requires no scale byte 255
// and none above 127 + k_max. A block of -0 alone under byte 0 is a zero block.
CastCounts cast_mxfp4_to_nvfp4(const Mxfp4View& source, size_t row, size_t count, int k_max,
                               NegativeZero negative_zero, uint8_t* codes, uint8_t* block_scales);
CastCounts cast_mxfp4_to_nvfp4_ref(const Mxfp4View& source, size_t row, size_t count, int k_max,
                                   NegativeZero negative_zero, uint8_t* codes, uint8_t* block_scales);

// Whether a block of this scale byte is in the window; byte 0 is inside only as a zero block.
constexpr bool in_cast_window(uint8_t scale_code, int k_max) {
  return scale_code != 0 && k_max - (int{scale_code} - 127) <= 17;
}

}  // namespace nibblecast
