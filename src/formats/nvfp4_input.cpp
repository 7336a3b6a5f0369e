#include "formats/nvfp4_input.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "formats/bf16.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlock = 16;
constexpr float kLargestScale = 448;  // of E4M3
constexpr float kLeastScale = 1e-5f;

struct BlockScale {
  float value = 1;
  bool saturated = false;
};

BlockScale scale_of(float amax, float input_scale) {
  const float exact = amax / (6.0f * input_scale);
  const float scale = decode_e4m3(encode_e4m3(std::min(exact, kLargestScale))) * input_scale;
  return {scale >= kLeastScale ? scale : 1.0f, exact > kLargestScale};
}

// The nearest magnitude of E2M1 for ratio >= 0, the even code where two are: each step of the grid is added
// where the ratio is past its middle, and at the middle where the code above is even. Sums of a few bits are
// exact.
inline float nearest_e2m1(float ratio) {
  float nearest = ratio > 0.25f ? 0.5f : 0.0f;
  nearest += ratio >= 0.75f ? 0.5f : 0.0f;
  nearest += ratio > 1.25f ? 0.5f : 0.0f;
  nearest += ratio >= 1.75f ? 0.5f : 0.0f;
  nearest += ratio > 2.5f ? 1.0f : 0.0f;
  nearest += ratio >= 3.5f ? 1.0f : 0.0f;
  return nearest + (ratio > 5.0f ? 2.0f : 0.0f);
}

}  // namespace

// In loops over a block that have no branch, so that they become vectors.
template <class T>
uint64_t round_nvfp4_input(const T* x, size_t count, float input_scale, T* y) {
  assert(count % kBlock == 0);
  uint64_t saturated = 0;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    float values[kBlock], amax = 0;
    for (size_t i = 0; i < kBlock; ++i) values[i] = to_float(x[begin + i]);
    for (size_t i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(values[i]));
    const BlockScale scale = scale_of(amax, input_scale);
    saturated += scale.saturated;
    for (size_t i = 0; i < kBlock; ++i) {
      const float magnitude = nearest_e2m1(std::fabs(values[i]) / scale.value) * scale.value;
      values[i] = values[i] < 0 ? -magnitude : magnitude;
    }
    for (size_t i = 0; i < kBlock; ++i) y[begin + i] = from_float<T>(values[i]);
  }
  return saturated;
}

template <class T>
uint64_t round_nvfp4_input_ref(const T* x, size_t count, float input_scale, T* y) {
  assert(count % kBlock == 0);
  uint64_t saturated = 0;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    float amax = 0;
    for (size_t i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(to_float(x[begin + i])));
    const BlockScale scale = scale_of(amax, input_scale);
    saturated += scale.saturated;
    for (size_t i = 0; i < kBlock; ++i) {
      const float value = to_float(x[begin + i]);
      const float magnitude = decode_e2m1(encode_e2m1(std::fabs(value) / scale.value)) * scale.value;
      y[begin + i] = from_float<T>(value >= 0 ? magnitude : -magnitude);
    }
  }
  return saturated;
}

template uint64_t round_nvfp4_input(const float*, size_t, float, float*);
template uint64_t round_nvfp4_input(const bf16*, size_t, float, bf16*);
template uint64_t round_nvfp4_input_ref(const float*, size_t, float, float*);
template uint64_t round_nvfp4_input_ref(const bf16*, size_t, float, bf16*);

}  // namespace nibblecast
