#include "ops/round.h"

#include "ops/per_isa.h"

namespace nibblecast {
namespace {

template <class T>
[[gnu::always_inline]] inline void widen_body(const T* x, size_t count, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] = to_float(x[i]);
}

template <class T>
[[gnu::always_inline]] inline void round_rows_body(const float* x, size_t x_stride, size_t rows, size_t cols,
                                                   T* y, size_t y_stride) {
  for (size_t row = 0; row < rows; ++row) {
    for (size_t col = 0; col < cols; ++col) y[row * y_stride + col] = from_float<T>(x[row * x_stride + col]);
  }
}

template <class T>
[[gnu::always_inline]] inline void round_sum_body(const float* a, const float* b, size_t count, T* y) {
  for (size_t i = 0; i < count; ++i) y[i] = from_float<T>(a[i] + b[i]);
}

template <class T>
[[gnu::always_inline]] inline void add_rounded_body(const float* x, size_t count, T* y) {
  for (size_t i = 0; i < count; ++i) y[i] = from_float<T>(to_float(y[i]) + x[i]);
}

template <class T>
[[gnu::always_inline]] inline void round_biased_rows_body(const float* x, size_t x_stride, size_t rows,
                                                          size_t cols, const float* bias, T* y,
                                                          size_t y_stride) {
  for (size_t row = 0; row < rows; ++row) {
    for (size_t col = 0; col < cols; ++col)
      y[row * y_stride + col] = from_float<T>(x[row * x_stride + col] + bias[col]);
  }
}

}  // namespace

template <class T>
void widen(const T* x, size_t count, float* y) {
  per_isa<widen_body<T>>(x, count, y);
}

template <class T>
void round_rows(const float* x, size_t x_stride, size_t rows, size_t cols, T* y, size_t y_stride) {
  per_isa<round_rows_body<T>>(x, x_stride, rows, cols, y, y_stride);
}

template <class T>
void round_biased_rows(const float* x, size_t x_stride, size_t rows, size_t cols, const float* bias, T* y,
                       size_t y_stride) {
  per_isa<round_biased_rows_body<T>>(x, x_stride, rows, cols, bias, y, y_stride);
}

template <class T>
void round_sum(const float* a, const float* b, size_t count, T* y) {
  per_isa<round_sum_body<T>>(a, b, count, y);
}

template <class T>
void add_rounded(const float* x, size_t count, T* y) {
  per_isa<add_rounded_body<T>>(x, count, y);
}

template void widen(const float*, size_t, float*);
template void widen(const bf16*, size_t, float*);
template void round_rows(const float*, size_t, size_t, size_t, float*, size_t);
template void round_rows(const float*, size_t, size_t, size_t, bf16*, size_t);
template void round_biased_rows(const float*, size_t, size_t, size_t, const float*, float*, size_t);
template void round_biased_rows(const float*, size_t, size_t, size_t, const float*, bf16*, size_t);
template void round_sum(const float*, const float*, size_t, float*);
template void round_sum(const float*, const float*, size_t, bf16*);
template void add_rounded(const float*, size_t, float*);
template void add_rounded(const float*, size_t, bf16*);

}  // namespace nibblecast
