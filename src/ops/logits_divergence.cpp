#include "ops/logits_divergence.h"

#include <algorithm>
#include <span>
#include <utility>

#include "ops/exp.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 8;

[[gnu::always_inline]] inline float largest_of(const float* values, size_t count) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  }
  for (; i < count; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  for (size_t lane = 1; lane < kLanes; ++lane) lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
  return lanes[0];
}

struct Sums {
  double a = 0, b = 0, cross = 0;
};

[[gnu::always_inline]] inline void add_lane(float a, float b, double max_a, double max_b, double& sum_a,
                                            double& sum_b, double& cross) {
  const double weight = exp_f64(double{a} - max_a);
  sum_a += weight;
  sum_b += exp_f64(double{b} - max_b);
  cross += weight * (double{a} - double{b});
}

[[gnu::always_inline]] inline Sums sums_of(const float* a, const float* b, size_t count, double max_a,
                                           double max_b) {
  double sum_a[kLanes] = {}, sum_b[kLanes] = {}, cross[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      add_lane(a[i + lane], b[i + lane], max_a, max_b, sum_a[lane], sum_b[lane], cross[lane]);
  }
  for (; i < count; ++i) add_lane(a[i], b[i], max_a, max_b, sum_a[0], sum_b[0], cross[0]);
  Sums all;
  for (size_t lane = 0; lane < kLanes; ++lane)
    all.a += sum_a[lane], all.b += sum_b[lane], all.cross += cross[lane];
  return all;
}

// `largest` may be the maximum so far or a new one.
void raise_maxima(float largest_a, float largest_b, LogitsDivergence& state) {
  if (state.sum_a != 0) {
    const double factor = std::exp(double{state.max_a} - double{largest_a});
    state.sum_a *= factor;
    state.cross *= factor;
    state.sum_b *= std::exp(double{state.max_b} - double{largest_b});
  }
  state.max_a = largest_a;
  state.max_b = largest_b;
}

void take_top(const float* logits, size_t count, uint64_t first, std::span<LogitsDivergence::Top> tops) {
  for (size_t i = 0; i < count; ++i) {
    if (!(logits[i] > tops.back().logit)) continue;
    tops.back() = {logits[i], first + i};
    for (size_t at = tops.size() - 1; at > 0 && tops[at].logit > tops[at - 1].logit; --at)
      std::swap(tops[at], tops[at - 1]);
  }
}

void take_tops(const float* a, const float* b, size_t count, uint64_t first, float largest_a, float largest_b,
               LogitsDivergence& state) {
  if (largest_a > state.top_a.logit) take_top(a, count, first, std::span(&state.top_a, 1));
  if (largest_b > state.top_b.back().logit) take_top(b, count, first, state.top_b);
}

}  // namespace

void add_logits_pair(const float* a, const float* b, size_t count, uint64_t first, LogitsDivergence& state) {
  const float largest_a = per_isa<largest_of>(a, count), largest_b = per_isa<largest_of>(b, count);
  raise_maxima(std::max(state.max_a, largest_a), std::max(state.max_b, largest_b), state);
  const Sums sums = per_isa<sums_of>(a, b, count, double{state.max_a}, double{state.max_b});
  state.sum_a += sums.a;
  state.sum_b += sums.b;
  state.cross += sums.cross;
  take_tops(a, b, count, first, largest_a, largest_b, state);
}

void add_logits_pair_ref(const float* a, const float* b, size_t count, uint64_t first,
                         LogitsDivergence& state) {
  const float largest_a = *std::max_element(a, a + count), largest_b = *std::max_element(b, b + count);
  raise_maxima(std::max(state.max_a, largest_a), std::max(state.max_b, largest_b), state);
  for (size_t i = 0; i < count; ++i) {
    const double weight = std::exp(double{a[i]} - double{state.max_a});
    state.sum_a += weight;
    state.sum_b += std::exp(double{b[i]} - double{state.max_b});
    state.cross += weight * (double{a[i]} - double{b[i]});
  }
  take_top(a, count, first, std::span(&state.top_a, 1));
  take_top(b, count, first, state.top_b);
}

}  // namespace nibblecast
