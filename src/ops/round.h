// ops/round.h - FP32 to and from a compute type, and sums that are rounded once.
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

// y[i] = x[i]
template <class T>
void widen(const T* x, size_t count, float* y);

// y[row, col] = round(x[row, col]); rows `x_stride` and `y_stride` apart.
template <class T>
void round_rows(const float* x, size_t x_stride, size_t rows, size_t cols, T* y, size_t y_stride);

// y[row, col] = round(x[row, col] + bias[col])
template <class T>
void round_biased_rows(const float* x, size_t x_stride, size_t rows, size_t cols, const float* bias, T* y,
                       size_t y_stride);

// y[i] = round(y[i] + x[i])
template <class T>
void add_rounded(const float* x, size_t count, T* y);

// y[i] = round(a[i] + b[i])
template <class T>
void round_sum(const float* a, const float* b, size_t count, T* y);

}  // namespace nibblecast
