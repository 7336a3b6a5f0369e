#include "ops/swiglu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/exp.h"

namespace nibblecast {

template <class T>
void swiglu(const float* gate, const float* up, size_t count, float limit, float* out) {
  const float bound = limit > 0 ? limit : std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) {
    float g = to_float(from_float<T>(gate[i])), u = to_float(from_float<T>(up[i]));
    g = g > bound ? bound : g;
    u = u > bound ? bound : u;
    u = u < -bound ? -bound : u;
    out[i] = g / (1.0f + exp_f32(-g)) * u;
  }
}

template <class T>
void swiglu_ref(const float* gate, const float* up, size_t count, float limit, float* out) {
  const double bound = limit > 0 ? double{limit} : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < count; ++i) {
    const double g = std::min(double{to_float(from_float<T>(gate[i]))}, bound);
    const double u = std::clamp(double{to_float(from_float<T>(up[i]))}, -bound, bound);
    out[i] = static_cast<float>(g / (1 + std::exp(-g)) * u);
  }
}

template void swiglu<float>(const float*, const float*, size_t, float, float*);
template void swiglu<bf16>(const float*, const float*, size_t, float, float*);
template void swiglu_ref<float>(const float*, const float*, size_t, float, float*);
template void swiglu_ref<bf16>(const float*, const float*, size_t, float, float*);

}  // namespace nibblecast
