// ops/activation.h - what stands between the linears of an MLP.
//
//   kSilu      a = silu(gate) * up
//   kGeluTanh  a = gelu(gate) * up, gelu(x) = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))
//   kRelu2     a = max(up, 0)²; there is no gate
//
// With a limit above 0, gate is at most that and up within plus and minus that before (DeepSeek-V4
// inference/model.py, Expert). NaN gives NaN.
// (transformers 5.23, activations.py)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

enum class ActivationKind : uint8_t { kSilu, kGeluTanh, kRelu2 };

struct Activation {
  ActivationKind kind = ActivationKind::kSilu;
  float limit = 0;  // 0: none

  constexpr bool gated() const { return kind != ActivationKind::kRelu2; }
  bool operator==(const Activation&) const = default;
};

// Of what would enter the next product (rounded to T): without and with the weight.
struct ActivationAmax {
  float unweighted = 0, weighted = 0;
};

// out[i] = round(a[i] * weight), in FP32 up to there, from gate and up, the sums of their products. gate is
// not read where there is none.
template <class T>
ActivationAmax activate(const Activation& activation, const float* gate, const float* up, size_t count,
                        float weight, T* out);

// The definition of a, in double.
void activate_ref(const Activation& activation, const float* gate, const float* up, size_t count, float* out);

}  // namespace nibblecast
