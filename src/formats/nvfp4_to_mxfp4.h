// formats/nvfp4_to_mxfp4.h - the way back from the cast of mxfp4_to_nvfp4.h, without changing a value.
//
// Where scale_2 = 2^m and both block scales of 32 elements are the same E4M3 power of two 2^s, the MXFP4
// block has the same nibbles and the E8M0 byte m + s + 127. A block fits if that is 0 ... 254. A block of
// zeros (0 or -0) whose scales are not NaN is worth the same under any byte; the cast gives the byte 0 the
// block scale 2^(-127 - m), at least 2^-9, so that one of the source's bytes is not known for certain. See
// ZeroBlocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "formats/nvfp4.h"

namespace nibblecast {

enum class ZeroBlocks {
  kByteZero,  // byte 0, as releases have them
  kByScale,   // byte 0 if the block scale is what the cast makes of it; else, by the rule above, the block
              // scale's
};

struct MxfpMisfit {
  enum Reason { kGlobalScale, kHalvesDiffer, kNoPowerOfTwo, kOutOfRange };
  size_t row = 0, block = 0;  // of 32 elements
  Reason reason = kGlobalScale;
  bool operator==(const MxfpMisfit&) const = default;
};

// Rows [row, row + count) of `source`, cols % 32 == 0, to codes [count, cols / 2] and E8M0 scales
// [count, cols / 32]; both may be unaligned, `codes` may be exactly where the source's rows begin (in place).
// Returns the first block that does not fit (then the output is not complete): kGlobalScale if scale_2 is no
// power of two, else what is wrong with the block scales.
std::optional<MxfpMisfit> cast_nvfp4_to_mxfp4(const Nvfp4View& source, size_t row, size_t count,
                                              ZeroBlocks zero_blocks, uint8_t* codes, uint8_t* scales);

}  // namespace nibblecast
