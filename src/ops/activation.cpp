#include "ops/activation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "ops/amax.h"
#include "ops/exp.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr float kGeluScale = 1.5957691216f;  // 2 sqrt(2/pi): x/2 (1 + tanh(y)) is x / (1 + exp(-2 y))
constexpr float kGeluCube = 0.044715f;

template <ActivationKind kKind>
[[gnu::always_inline]] inline float activated(float g, float u) {
  if constexpr (kKind == ActivationKind::kRelu2) return u < 0.0f ? 0.0f : u * u;
  float exponent = g;
  if constexpr (kKind == ActivationKind::kGeluTanh) exponent = kGeluScale * (g + kGeluCube * (g * g * g));
  return g / (1.0f + exp_f32(-exponent)) * u;
}

// Returns the bits of the largest |a[i]|.
template <ActivationKind kKind, class T>
[[gnu::always_inline]] inline uint32_t activate_body(const float* gate, const float* up, size_t count,
                                                     float bound, float weight, T* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    float g = kKind == ActivationKind::kRelu2 ? 0.0f : gate[i], u = up[i];
    g = g > bound ? bound : g;
    u = u > bound ? bound : u;
    u = u < -bound ? -bound : u;
    const float a = activated<kKind>(g, u);
    const uint32_t size = std::bit_cast<uint32_t>(a) & 0x7fffffffu;
    largest = largest > size ? largest : size;
    out[i] = from_float<T>(a * weight);
  }
  return largest;
}

double activated_ref(ActivationKind kind, double g, double u) {
  if (kind == ActivationKind::kRelu2) return u < 0 ? 0 : u * u;
  if (kind == ActivationKind::kSilu) return g / (1 + std::exp(-g)) * u;
  return g / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g))) * u;
}

}  // namespace

template <class T>
ActivationAmax activate(const Activation& activation, const float* gate, const float* up, size_t count,
                        float weight, T* out) {
  using enum ActivationKind;
  const float bound = activation.limit > 0 ? activation.limit : std::numeric_limits<float>::infinity();
  uint32_t largest = 0;
  switch (activation.kind) {
    case kSilu:
      largest = per_isa<activate_body<kSilu, T>>(gate, up, count, bound, weight, out);
      break;
    case kGeluTanh:
      largest = per_isa<activate_body<kGeluTanh, T>>(gate, up, count, bound, weight, out);
      break;
    case kRelu2:
      largest = per_isa<activate_body<kRelu2, T>>(gate, up, count, bound, weight, out);
      break;
  }
  // Rounding keeps the order, so the largest is rounded alone.
  return {to_float(from_float<T>(std::bit_cast<float>(largest))), amax(out, count)};
}

void activate_ref(const Activation& activation, const float* gate, const float* up, size_t count,
                  float* out) {
  const double bound =
      activation.limit > 0 ? double{activation.limit} : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < count; ++i) {
    const double g = activation.gated() ? std::min(double{gate[i]}, bound) : 0;
    const double u = std::clamp(double{up[i]}, -bound, bound);
    out[i] = static_cast<float>(activated_ref(activation.kind, g, u));
  }
}

template ActivationAmax activate(const Activation&, const float*, const float*, size_t, float, float*);
template ActivationAmax activate(const Activation&, const float*, const float*, size_t, float, bf16*);

}  // namespace nibblecast
