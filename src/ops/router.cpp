#include "ops/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/exp.h"

namespace nibblecast {
namespace {

bool all_numbers(const float* values, size_t count) {
  return std::none_of(values, values + count, [](float value) { return std::isnan(value); });
}

// order [candidates] -> its `count` with the largest values, largest first, equal ones the lower first.
void take_largest(const float* values, std::vector<int32_t>& order, size_t count, int32_t* chosen) {
  const auto larger = [&](int32_t a, int32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(), larger);
  std::copy_n(order.begin(), count, chosen);
}

float sum_of_two_largest(const float* values, size_t count) {
  float first = std::max(values[0], values[1]), second = std::min(values[0], values[1]);
  for (size_t i = 2; i < count; ++i) {
    second = std::max(second, std::min(first, values[i]));
    first = std::max(first, values[i]);
  }
  return first + second;
}

// The experts of the best groups, ascending. False if what a group is worth is NaN.
bool candidates(const RouterSpec& router, const float* choices, std::vector<int32_t>& order) {
  order.resize(router.experts);
  std::iota(order.begin(), order.end(), 0);
  if (router.groups == 1) return true;
  const size_t size = router.experts / router.groups;
  std::vector<float> worth(router.groups);
  for (size_t group = 0; group < router.groups; ++group) {
    worth[group] = sum_of_two_largest(choices + group * size, size);
  }
  if (!all_numbers(worth.data(), worth.size())) return false;
  std::vector<int32_t> groups(router.groups), best(router.top_groups);
  std::iota(groups.begin(), groups.end(), 0);
  take_largest(worth.data(), groups, best.size(), best.data());
  std::erase_if(order, [&](int32_t expert) {
    return std::count(best.begin(), best.end(), expert / static_cast<int32_t>(size)) == 0;
  });
  return true;
}

void softmax(const float* logits, size_t count, float* scores) {
  const float largest = *std::max_element(logits, logits + count);
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += scores[i] = exp_f32(logits[i] - largest);
  for (size_t i = 0; i < count; ++i) scores[i] /= sum;
}

// scores [top] of the chosen -> weights.
void weigh(const RouterSpec& router, const float* scores, float* weights) {
  float sum = 0;
  for (size_t i = 0; i < router.top; ++i) sum += scores[i];
  sum += router.eps;
  for (size_t i = 0; i < router.top; ++i) {
    weights[i] = (router.renormalize ? scores[i] / sum : scores[i]) * router.scale;
  }
}

}  // namespace

void router_scores(const float* logits, size_t experts, float* scores) {
  for (size_t i = 0; i < experts; ++i) {
    // Above 20 the reference's softplus is its argument.
    const float softplus = logits[i] > 20.0f ? logits[i] : std::log1p(std::exp(logits[i]));
    scores[i] = std::sqrt(softplus);
  }
}

void router_scores(RouterScore score, const float* logits, size_t count, float* scores) {
  switch (score) {
    case RouterScore::kSqrtSoftplus:
      return router_scores(logits, count, scores);
    case RouterScore::kSigmoid:
      for (size_t i = 0; i < count; ++i) scores[i] = 1.0f / (1.0f + exp_f32(-logits[i]));
      return;
    case RouterScore::kSoftmax:
      return softmax(logits, count, scores);
  }
}

bool route(const RouterSpec& router, const float* logits, const float* bias, int32_t* chosen,
           float* weights) {
  thread_local std::vector<float> scores, choices, own;
  thread_local std::vector<int32_t> order;
  choices.assign(logits, logits + router.experts);
  if (!router.score_chosen) {
    scores.resize(router.experts);
    router_scores(router.score, logits, router.experts, scores.data());
    for (size_t i = 0; i < router.experts; ++i) choices[i] = scores[i] + (bias == nullptr ? 0.0f : bias[i]);
  }
  if (!all_numbers(choices.data(), router.experts)) return false;
  if (!candidates(router, choices.data(), order)) return false;
  take_largest(choices.data(), order, router.top, chosen);
  own.resize(router.top);
  const float* from = router.score_chosen ? logits : scores.data();
  for (size_t i = 0; i < router.top; ++i) own[i] = from[chosen[i]];
  if (router.score_chosen) router_scores(router.score, own.data(), router.top, own.data());
  weigh(router, own.data(), weights);
  return all_numbers(weights, router.top);
}

bool choose_experts(const float* scores, const float* bias, size_t experts, size_t count, int32_t* chosen) {
  thread_local std::vector<float> biased;
  thread_local std::vector<int32_t> order;
  biased.resize(experts);
  order.resize(experts);
  for (size_t i = 0; i < experts; ++i) biased[i] = scores[i] + bias[i];
  if (!all_numbers(biased.data(), experts)) return false;
  std::iota(order.begin(), order.end(), 0);
  take_largest(biased.data(), order, count, chosen);
  return true;
}

void routing_weights(const float* scores, const int32_t* chosen, size_t count, float scaling,
                     float* weights) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += scores[chosen[i]];
  for (size_t i = 0; i < count; ++i) weights[i] = scores[chosen[i]] / sum * scaling;
}

}  // namespace nibblecast
