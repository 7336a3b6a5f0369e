// ops/swiglu.h - a = silu(min(gate, limit)) * clamp(up, -limit, limit): an expert's activation, clamped
// before it; one case of ops/activation.h. (DeepSeek-V4 inference/model.py, Expert)
#pragma once

#include "ops/activation.h"

namespace nibblecast {

using SwigluAmax = ActivationAmax;

// out[i] = round(a[i] * weight), in FP32 up to there, from gate and up, the sums of their products. limit 0:
// no clamp. NaN gives NaN.
template <class T>
SwigluAmax swiglu(const float* gate, const float* up, size_t count, float limit, float weight, T* out) {
  return activate({.limit = limit}, gate, up, count, weight, out);
}

// The definition of a, in double.
inline void swiglu_ref(const float* gate, const float* up, size_t count, float limit, float* out) {
  activate_ref({.limit = limit}, gate, up, count, out);
}

}  // namespace nibblecast
