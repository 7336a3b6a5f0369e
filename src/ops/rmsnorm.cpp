#include "ops/rmsnorm.h"

#include <cmath>

#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 64;

template <class T>
[[gnu::always_inline]] inline float sum_of_squares_body(const T* x, size_t count) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = to_float(x[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (size_t lane = 0; i < count; ++i, ++lane) lanes[lane] += to_float(x[i]) * to_float(x[i]);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <class T, class Out, NormWeight kUse>
[[gnu::always_inline]] inline void scale_body(const T* x, size_t count, const float* weight, float factor,
                                              Out* y) {
  for (size_t i = 0; i < count; ++i) {
    const float normed = to_float(x[i]) * factor;
    if constexpr (kUse == NormWeight::kTimes) y[i] = from_float<Out>(normed * weight[i]);
    if constexpr (kUse == NormWeight::kPlusOne) y[i] = from_float<Out>(normed * (1.0f + weight[i]));
    if constexpr (kUse == NormWeight::kRoundedTimes)
      y[i] = from_float<Out>(to_float(from_float<Out>(normed)) * weight[i]);
  }
}

template <class T, class Out>
[[gnu::always_inline]] inline void plain_scale_body(const T* x, size_t count, float factor, Out* y) {
  for (size_t i = 0; i < count; ++i) y[i] = from_float<Out>(to_float(x[i]) * factor);
}

}  // namespace

template <class T>
float sum_of_squares(const T* x, size_t count) {
  return per_isa<sum_of_squares_body<T>>(x, count);
}

template <class T, class Out>
void rmsnorm(const T* x, size_t count, const float* weight, NormWeight use, float eps, Out* y) {
  const float factor = 1.0f / std::sqrt(sum_of_squares(x, count) / static_cast<float>(count) + eps);
  if (weight == nullptr) return per_isa<plain_scale_body<T, Out>>(x, count, factor, y);
  switch (use) {
    case NormWeight::kTimes:
      return per_isa<scale_body<T, Out, NormWeight::kTimes>>(x, count, weight, factor, y);
    case NormWeight::kRoundedTimes:
      return per_isa<scale_body<T, Out, NormWeight::kRoundedTimes>>(x, count, weight, factor, y);
    case NormWeight::kPlusOne:
      return per_isa<scale_body<T, Out, NormWeight::kPlusOne>>(x, count, weight, factor, y);
  }
}

template <class T, class Out>
void rmsnorm(const T* x, size_t count, const float* weight, float eps, Out* y) {
  rmsnorm(x, count, weight, NormWeight::kTimes, eps, y);
}

template <class T, class Out>
void rmsnorm_ref(const T* x, size_t count, const float* weight, float eps, Out* y, NormWeight use) {
  double squares = 0;
  for (size_t i = 0; i < count; ++i) squares += double{to_float(x[i])} * double{to_float(x[i])};
  const double factor = 1 / std::sqrt(squares / static_cast<double>(count) + double{eps});
  for (size_t i = 0; i < count; ++i) {
    double scaled = double{to_float(x[i])} * factor;
    if (weight != nullptr) {
      if (use == NormWeight::kRoundedTimes)
        scaled = double{to_float(from_float<Out>(static_cast<float>(scaled)))};
      scaled *= use == NormWeight::kPlusOne ? 1 + double{weight[i]} : double{weight[i]};
    }
    y[i] = from_float<Out>(static_cast<float>(scaled));
  }
}

template float sum_of_squares(const float*, size_t);
template float sum_of_squares(const bf16*, size_t);
template void rmsnorm(const float*, size_t, const float*, float, float*);
template void rmsnorm(const float*, size_t, const float*, float, bf16*);
template void rmsnorm(const bf16*, size_t, const float*, float, float*);
template void rmsnorm(const bf16*, size_t, const float*, float, bf16*);
template void rmsnorm(const float*, size_t, const float*, NormWeight, float, float*);
template void rmsnorm(const float*, size_t, const float*, NormWeight, float, bf16*);
template void rmsnorm(const bf16*, size_t, const float*, NormWeight, float, float*);
template void rmsnorm(const bf16*, size_t, const float*, NormWeight, float, bf16*);
template void rmsnorm_ref(const float*, size_t, const float*, float, float*, NormWeight);
template void rmsnorm_ref(const float*, size_t, const float*, float, bf16*, NormWeight);
template void rmsnorm_ref(const bf16*, size_t, const float*, float, float*, NormWeight);
template void rmsnorm_ref(const bf16*, size_t, const float*, float, bf16*, NormWeight);

}  // namespace nibblecast
