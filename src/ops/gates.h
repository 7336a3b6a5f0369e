// ops/gates.h - gates of a decoder's blocks, and the columns of a product whose rows are several things.
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

// `count` blocks of `width` columns, `stride` from one to the next.
struct ColumnBlocks {
  size_t begin = 0, width = 0, stride = 0, count = 0;
  size_t columns() const { return count * width; }
};

// y[i] = round(x[i]) for the blocks' columns of one row x, one block after the other.
template <class To>
void copy_columns(const float* x, const ColumnBlocks& blocks, To* y);

// x[i] = round(x[i] * sigmoid(gates[i])), in FP32 up to there.
// (transformers 5.23, the output gate of models/qwen3_5_moe, Attention)
template <class T>
void gate_elements(const T* gates, size_t count, T* x);

// y *= sigmoid(x · weight): the row y [y_width] by what the row x [width] says. FP32.
// (transformers 5.23, shared_expert_gate of models/qwen3_5_moe)
template <class T>
void gate_row(const T* x, const float* weight, size_t width, float* y, size_t y_width);

// The definitions, in double.
template <class T>
void gate_elements_ref(const T* gates, size_t count, T* x);
template <class T>
void gate_row_ref(const T* x, const float* weight, size_t width, float* y, size_t y_width);

}  // namespace nibblecast
