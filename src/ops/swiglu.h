// ops/swiglu.h - a = silu(min(gate, limit)) * clamp(up, -limit, limit): an expert's activation, clamped
// before it. (DeepSeek-V4 inference/model.py, Expert)
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

// Of what would enter the next product (rounded to T): without and with the weight.
struct SwigluAmax {
  float unweighted = 0, weighted = 0;
};

// out[i] = round(a[i] * weight), in FP32 up to there, from gate and up, the sums of their products. limit 0:
// no clamp. NaN gives NaN.
template <class T>
SwigluAmax swiglu(const float* gate, const float* up, size_t count, float limit, float weight, T* out);

// The definition of a, in double.
void swiglu_ref(const float* gate, const float* up, size_t count, float limit, float* out);

}  // namespace nibblecast
