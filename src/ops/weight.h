// ops/weight.h - a linear's weight [out, in] as it is stored, and its rows in a compute type.
#pragma once

#include <cstddef>
#include <variant>

#include "formats/bf16.h"
#include "formats/fp8_block.h"
#include "formats/mxfp4.h"

namespace nibblecast {

struct Bf16View {
  const void* values = nullptr;  // [rows, cols] BF16, may be unaligned
  size_t rows = 0, cols = 0;
};

struct F32View {
  const void* values = nullptr;  // [rows, cols] F32, may be unaligned
  size_t rows = 0, cols = 0;
};

using WeightView = std::variant<Bf16View, F32View, Fp8BlockView, Mxfp4View>;

size_t weight_rows(const WeightView& weight);
size_t weight_cols(const WeightView& weight);

// Rows [row, row + count) to out [count, cols], dequantized, rounded once to T (nearest even) where T is
// the narrower type.
template <class T>
void read_weight(const WeightView& weight, size_t row, size_t count, T* out);

}  // namespace nibblecast
