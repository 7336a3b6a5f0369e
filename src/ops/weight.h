// ops/weight.h - a linear's weight [out, in] as it is stored, and its rows in a compute type.
#pragma once

#include <cstddef>

#include "formats/stored_linear.h"

namespace nibblecast {

using WeightView = StoredLinear;

size_t weight_rows(const WeightView& weight);
size_t weight_cols(const WeightView& weight);

// Rows [row, row + count) to out [count, cols], dequantized, rounded once to T (nearest even) where T is
// the narrower type.
template <class T>
void read_weight(const WeightView& weight, size_t row, size_t count, T* out);

}  // namespace nibblecast
