// formats/kernels.h - what the files of this folder share. Not for other folders.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/fp8_block.h"

namespace nibblecast {

// The scale of the tile that holds [row, col]. Every NaN is the one quiet NaN 0x7fc00000, so that a product
// has the same bits whichever operand a compiler puts first.
float fp8_tile_scale(const Fp8BlockView& weight, size_t row, size_t col);

}  // namespace nibblecast
