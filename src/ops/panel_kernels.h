// ops/panel_kernels.h - the instruction-set versions behind ops/panel.h.
#pragma once

#include <cstddef>

#include "formats/bf16.h"
#include "formats/fp8_block.h"
#include "formats/mxfp4.h"

namespace nibblecast {

// kPanel whole rows, k % 32 == 0; as pack_panel_ref.
void pack_panel_avx512(const bf16* rows, size_t k, bf16* packed);
// Rows [row, row + kPanel) of a weight dequantized and packed at once. False, and nothing of use written,
// where a scale leaves the range in which adding to the exponent is all there is to it.
bool pack_mxfp4_avx512(const Mxfp4View& weight, size_t row, bf16* packed);
// The same of FP8; also false where the panel's rows or 32 of its inputs are not in one tile, or scales are
// not E8M0.
bool pack_fp8_avx512(const Fp8BlockView& weight, size_t row, bf16* packed);

}  // namespace nibblecast
