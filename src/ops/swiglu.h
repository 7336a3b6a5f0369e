// ops/swiglu.h - silu(min(gate, limit)) * clamp(up, -limit, limit): an expert's activation, clamped before
// it. (DeepSeek-V4 inference/model.py, Expert)
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

// gate and up, the sums of their products, are rounded to T first; the rest is FP32 and `out` is not rounded.
// limit 0: no clamp. NaN gives NaN.
template <class T>
void swiglu(const float* gate, const float* up, size_t count, float limit, float* out);

// The definition, in double from the rounded gate and up.
template <class T>
void swiglu_ref(const float* gate, const float* up, size_t count, float limit, float* out);

}  // namespace nibblecast
