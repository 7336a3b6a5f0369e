// ops/softmax_panels.h - attention's softmax over panels of keys: which keys a query sees, and the loops over
// one row of products. Products stand as [panels, rows, kPanel]; loops are for per_isa().
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "ops/exp.h"
#include "ops/panel.h"

namespace nibblecast {

constexpr size_t panels_of(size_t keys) { return (keys + kPanel - 1) / kPanel; }

// The first key that a query sees in a window of so many keys, its own included.
constexpr size_t first_visible(size_t window, size_t query) {
  return query + 1 > window ? query + 1 - window : 0;
}

// Bits [begin, end), begin <= end, of a panel whose first key is `first`.
inline uint64_t bits_of_range(size_t first, size_t begin, size_t end) {
  static_assert(kPanel == 64);
  const auto below = [&](size_t key) {  // bits of the panel's keys before `key`
    if (key <= first) return uint64_t{0};
    return key - first >= kPanel ? ~uint64_t{0} : (uint64_t{1} << (key - first)) - 1;
  };
  return below(end) & ~below(begin);
}

// The row's products, of which dots points at the first: scaled, and -infinity where bit i of masks[panel]
// is 0. Returns the largest; NaN is never the largest.
[[gnu::always_inline]] inline float mask_body(float* dots, size_t rows, size_t panels, const uint64_t* masks,
                                              float scale) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  float highest[kPanel];
  for (size_t i = 0; i < kPanel; ++i) highest[i] = kHidden;
  for (size_t panel = 0; panel < panels; ++panel) {
    float* own = dots + panel * rows * kPanel;
    for (size_t half = 0; half < kPanel; half += 32) {
      const uint32_t mask = static_cast<uint32_t>(masks[panel] >> half);
      for (size_t i = 0; i < 32; ++i) {
        const float dot = (mask >> i & 1) != 0 ? own[half + i] * scale : kHidden;
        own[half + i] = dot;
        highest[half + i] = dot > highest[half + i] ? dot : highest[half + i];
      }
    }
  }
  float largest = highest[0];
  for (size_t i = 1; i < kPanel; ++i) largest = highest[i] > largest ? highest[i] : largest;
  return largest;
}

// p [panels, kPanel] = exp(dots - largest), rounded to T; what is not rounded is added to lanes [kPanel].
template <class T>
[[gnu::always_inline]] inline void exp_panels(const float* dots, size_t rows, size_t panels, float largest,
                                              float* lanes, T* p) {
  for (size_t panel = 0; panel < panels; ++panel) {
    const float* from = dots + panel * rows * kPanel;
    T* to = p + panel * kPanel;
    for (size_t i = 0; i < kPanel; ++i) {
      const float weight = exp_f32(from[i] - largest);
      lanes[i] += weight;
      to[i] = from_float<T>(weight);
    }
  }
}

// out += from, both [rows, cols], rows strides apart.
[[gnu::always_inline]] inline void add_rows(const float* from, size_t stride, size_t rows, size_t cols,
                                            float* out, size_t out_stride) {
  for (size_t row = 0; row < rows; ++row) {
    for (size_t col = 0; col < cols; ++col) out[row * out_stride + col] += from[row * stride + col];
  }
}

[[gnu::always_inline]] inline void scale_body(float* x, size_t count, float factor) {
  for (size_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace nibblecast
