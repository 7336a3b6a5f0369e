// tests/ops/suites.h - what the suites of tests for several backends share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "formats/bf16.h"
#include "ops/activation.h"

namespace nibblecast::testing {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline std::vector<float> random_values(size_t count, unsigned seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

template <class T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) result.push_back(from_float<T>(value));
  return result;
}

// One unit in the last place of T at `value`.
template <class T>
float unit(float value) {
  return std::max(std::abs(value), 1e-30f) * (sizeof(T) == 2 ? 0x1p-7f : 0x1p-22f);
}

template <class T>
std::vector<T> rows_of(const std::vector<T>& values, size_t width, size_t first, size_t count) {
  const auto begin = values.begin() + static_cast<ptrdiff_t>(first * width);
  return std::vector<T>(begin, begin + static_cast<ptrdiff_t>(count * width));
}

template <class T>
struct Rows {
  std::vector<T> values;
  float seen = 0;
};
template <class T>
struct Activated {
  std::vector<T> out;
  ActivationAmax seen;
};
struct Routed {
  std::vector<int32_t> chosen;
  std::vector<float> weights;
  bool nan = false;
};

template <class B, class E>
struct On {
  using Backend = B;
  using Element = E;
};

}  // namespace nibblecast::testing
