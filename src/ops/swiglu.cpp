#include "ops/swiglu.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "ops/amax.h"
#include "ops/exp.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

// Returns the bits of the largest |a[i]|.
template <class T>
[[gnu::always_inline]] inline uint32_t swiglu_body(const float* gate, const float* up, size_t count,
                                                   float bound, float weight, T* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    float g = gate[i], u = up[i];
    g = g > bound ? bound : g;
    u = u > bound ? bound : u;
    u = u < -bound ? -bound : u;
    const float a = g / (1.0f + exp_f32(-g)) * u;
    const uint32_t size = std::bit_cast<uint32_t>(a) & 0x7fffffffu;
    largest = largest > size ? largest : size;
    out[i] = from_float<T>(a * weight);
  }
  return largest;
}

}  // namespace

template <class T>
SwigluAmax swiglu(const float* gate, const float* up, size_t count, float limit, float weight, T* out) {
  const float bound = limit > 0 ? limit : std::numeric_limits<float>::infinity();
  const uint32_t largest = per_isa<swiglu_body<T>>(gate, up, count, bound, weight, out);
  // Rounding keeps the order, so the largest is rounded alone.
  return {to_float(from_float<T>(std::bit_cast<float>(largest))), amax(out, count)};
}

void swiglu_ref(const float* gate, const float* up, size_t count, float limit, float* out) {
  const double bound = limit > 0 ? double{limit} : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < count; ++i) {
    const double g = std::min(double{gate[i]}, bound);
    const double u = std::clamp(double{up[i]}, -bound, bound);
    out[i] = static_cast<float>(g / (1 + std::exp(-g)) * u);
  }
}

template SwigluAmax swiglu(const float*, const float*, size_t, float, float, float*);
template SwigluAmax swiglu(const float*, const float*, size_t, float, float, bf16*);

}  // namespace nibblecast
