#include "ops/cross_entropy.h"

#include <algorithm>

#include "ops/exp.h"
#include "ops/per_isa.h"

namespace nibblecast {
namespace {

constexpr size_t kLanes = 16;

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

[[gnu::always_inline]] inline double sum_of_exp(const float* values, size_t count, float largest) {
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += double{exp_f32(values[i + lane] - largest)};
  }
  for (; i < count; ++i) lanes[0] += double{exp_f32(values[i] - largest)};
  for (size_t lane = 1; lane < kLanes; ++lane) lanes[0] += lanes[lane];
  return lanes[0];
}

// `largest` may be the maximum so far or a new one.
void raise_maximum(float largest, CrossEntropy& state) {
  if (state.sum != 0) state.sum *= std::exp(double{state.largest} - double{largest});
  state.largest = largest;
}

void take_target(const float* logits, size_t count, uint64_t first, int64_t target, CrossEntropy& state) {
  const uint64_t place = static_cast<uint64_t>(target) - first;  // those before wrap around
  if (place < count) state.target = logits[place];
}

}  // namespace

void add_logits(const float* logits, size_t count, uint64_t first, int64_t target, CrossEntropy& state) {
  if (target < 0) return;
  raise_maximum(std::max(state.largest, per_isa<largest_of>(logits, count)), state);
  state.sum += per_isa<sum_of_exp>(logits, count, state.largest);
  take_target(logits, count, first, target, state);
}

void add_logits_ref(const float* logits, size_t count, uint64_t first, int64_t target, CrossEntropy& state) {
  if (target < 0) return;
  raise_maximum(std::max(state.largest, *std::max_element(logits, logits + count)), state);
  for (size_t i = 0; i < count; ++i) state.sum += std::exp(double{logits[i]} - double{state.largest});
  take_target(logits, count, first, target, state);
}

}  // namespace nibblecast
