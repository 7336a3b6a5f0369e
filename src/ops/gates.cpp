#include "ops/gates.h"

#include <cmath>

#include "ops/exp.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 64;

template <class To>
[[gnu::always_inline]] inline void copy_body(const float* x, size_t count, To* y) {
  for (size_t i = 0; i < count; ++i) y[i] = from_float<To>(x[i]);
}

template <class T>
[[gnu::always_inline]] inline void gate_body(const T* gates, size_t count, T* x) {
  for (size_t i = 0; i < count; ++i)
    x[i] = from_float<T>(to_float(x[i]) / (1.0f + exp_f32(-to_float(gates[i]))));
}

// As sum_of_squares() (ops/rmsnorm.h) adds.
template <class T>
[[gnu::always_inline]] inline float dot_body(const T* x, const float* weight, size_t count) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += to_float(x[i + lane]) * weight[i + lane];
  for (size_t lane = 0; i < count; ++i, ++lane) lanes[lane] += to_float(x[i]) * weight[i];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

[[gnu::always_inline]] inline void scale_body(size_t count, float factor, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] *= factor;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

template <class To>
void copy_columns(const float* x, const ColumnBlocks& blocks, To* y) {
  for (size_t block = 0; block < blocks.count; ++block)
    per_isa<copy_body<To>>(x + blocks.begin + block * blocks.stride, blocks.width, y + block * blocks.width);
}

template <class T>
void gate_elements(const T* gates, size_t count, T* x) {
  per_isa<gate_body<T>>(gates, count, x);
}

template <class T>
void gate_row(const T* x, const float* weight, size_t width, float* y, size_t y_width) {
  const float gate = per_isa<dot_body<T>>(x, weight, width);
  per_isa<scale_body>(y_width, 1.0f / (1.0f + exp_f32(-gate)), y);
}

template <class T>
void gate_elements_ref(const T* gates, size_t count, T* x) {
  for (size_t i = 0; i < count; ++i)
    x[i] = from_float<T>(static_cast<float>(double{to_float(x[i])} * sigmoid(double{to_float(gates[i])})));
}

template <class T>
void gate_row_ref(const T* x, const float* weight, size_t width, float* y, size_t y_width) {
  double gate = 0;
  for (size_t i = 0; i < width; ++i) gate += double{to_float(x[i])} * double{weight[i]};
  for (size_t i = 0; i < y_width; ++i) y[i] = static_cast<float>(double{y[i]} * sigmoid(gate));
}

template void copy_columns(const float*, const ColumnBlocks&, float*);
template void copy_columns(const float*, const ColumnBlocks&, bf16*);
template void gate_elements(const float*, size_t, float*);
template void gate_elements(const bf16*, size_t, bf16*);
template void gate_row(const float*, const float*, size_t, float*, size_t);
template void gate_row(const bf16*, const float*, size_t, float*, size_t);
template void gate_elements_ref(const float*, size_t, float*);
template void gate_elements_ref(const bf16*, size_t, bf16*);
template void gate_row_ref(const float*, const float*, size_t, float*, size_t);
template void gate_row_ref(const bf16*, const float*, size_t, float*, size_t);

}  // namespace nibblecast
