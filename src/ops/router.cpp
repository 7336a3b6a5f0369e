#include "ops/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace nibblecast {

void router_scores(const float* logits, size_t experts, float* scores) {
  for (size_t i = 0; i < experts; ++i) {
    // Above 20 the reference's softplus is its argument.
    const float softplus = logits[i] > 20.0f ? logits[i] : std::log1p(std::exp(logits[i]));
    scores[i] = std::sqrt(softplus);
  }
}

bool choose_experts(const float* scores, const float* bias, size_t experts, size_t count, int32_t* chosen) {
  thread_local std::vector<float> biased;
  thread_local std::vector<int32_t> order;
  biased.resize(experts);
  order.resize(experts);
  bool numbers = true;
  for (size_t i = 0; i < experts; ++i) {
    biased[i] = scores[i] + bias[i];
    numbers = numbers && !std::isnan(biased[i]);
  }
  if (!numbers) return false;
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) {
    return biased[a] != biased[b] ? biased[a] > biased[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(), larger);
  std::copy_n(order.begin(), count, chosen);
  return true;
}

void routing_weights(const float* scores, const int32_t* chosen, size_t count, float scaling,
                     float* weights) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += scores[chosen[i]];
  for (size_t i = 0; i < count; ++i) weights[i] = scores[chosen[i]] / sum * scaling;
}

}  // namespace nibblecast
