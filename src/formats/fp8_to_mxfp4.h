// formats/fp8_to_mxfp4.h - FP8 weights that hold exactly the values of an MXFP4 weight, as MXFP4 again.
//
// Releases with MXFP4 experts are also published with all weights in FP8. That changes no value: a tile's
// scale is that of its largest block over 2^6, and codes are E2M1 numbers times powers of two. (DeepSeek-V4
// inference/convert.py)
//
// A block of 32 neighbours of a row is exactly MXFP4 if the scale of its tile is a power of two and there is
// an s for which each value is e2m1 * 2^s. If there are several, the scale is the one that DeepSeek's
// quantizer gives, 2^ceil(log2(amax / 6)), as far as that can be known: it leaves a block's largest magnitude
// at 3, 4 or 6, and of s and s + 1 that differ by this alone (6 and no 0.5 or 1.5, or 3) s + 1 is far
// likelier. Of the 1.4 million blocks of a trained model 16 get another scale than they had; values are the
// same always. A block of zeros gets the byte 0, as in the releases, under any scale that is finite and not
// negative. -0 stays -0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "formats/fp8_block.h"

namespace nibblecast {

// Whether the values are whole blocks of 32, each in one tile. The casts require it.
constexpr bool has_blocks_of_32(size_t cols, size_t tile_cols) {
  return cols % 32 == 0 && (tile_cols % 32 == 0 || tile_cols >= cols);
}

// Rows [row, row + count) of `source` to codes [count, cols / 2] and E8M0 scales [count, cols / 32], both as
// formats/mxfp4.h has them; the bytes are 0 ... 252, so that every value is finite. Returns the index (from
// `row`, row by row) of the first block that is not exactly MXFP4: then the output is not complete.
std::optional<size_t> cast_fp8_to_mxfp4(const Fp8BlockView& source, size_t row, size_t count, uint8_t* codes,
                                        uint8_t* scales);
// The definition; same bytes.
std::optional<size_t> cast_fp8_to_mxfp4_ref(const Fp8BlockView& source, size_t row, size_t count,
                                            uint8_t* codes, uint8_t* scales);

}  // namespace nibblecast
