// ops/rmsnorm.h - x / sqrt(mean(x²) + eps), times a weight. FP32 throughout, one rounding at the end unless
// the weight's use says otherwise.
// (DeepSeek-V4 inference/model.py, RMSNorm; the per-head norm of q has no weight. transformers 5.23, RMSNorm
// of models/gemma4, of models/llama and of models/gemma3)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

// How the weight meets n = x / sqrt(mean(x²) + eps).
enum class NormWeight : uint8_t {
  kTimes,         // round(n * weight)
  kRoundedTimes,  // round(round(n) * weight)
  kPlusOne,       // round(n * (1 + weight))
};

// Sum of squares in FP32: 64 interleaved partial sums, added in ascending order.
template <class T>
float sum_of_squares(const T* x, size_t count);

// y[i] = round(x[i] * (1 / sqrt(mean + eps)) * weight[i]) over one vector of `count`. `weight` may be null:
// no weight. y may be x.
template <class T, class Out>
void rmsnorm(const T* x, size_t count, const float* weight, float eps, Out* y);

// The same with a weight of any use.
template <class T, class Out>
void rmsnorm(const T* x, size_t count, const float* weight, NormWeight use, float eps, Out* y);

// The definition: statistics in double.
template <class T, class Out>
void rmsnorm_ref(const T* x, size_t count, const float* weight, float eps, Out* y,
                 NormWeight use = NormWeight::kTimes);

}  // namespace nibblecast
