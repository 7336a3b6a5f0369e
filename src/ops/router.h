// ops/router.h - which experts a token goes to, and with what weight. FP32.
//
// Scores are made of the logits, choices of the scores and a bias; the weights are the chosen ones' scores:
// of their sum, if so wanted, and scaled. Experts may stand in groups, of which the best are chosen first.
// (DeepSeek-V4 inference/model.py, Gate, score function sqrtsoftplus. transformers 5.23, routers of
// models/qwen3_moe, mixtral, deepseek_v3, gpt_oss, llama4)
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibblecast {

enum class RouterScore : uint8_t {
  kSqrtSoftplus,  // sqrt(log(1 + e^logit))
  kSigmoid,       // 1 / (1 + e^-logit)
  kSoftmax,       // e^logit / sum of all e^logit
};

struct RouterSpec {
  size_t experts = 0, top = 0;  // top <= experts of top_groups groups
  RouterScore score = RouterScore::kSqrtSoftplus;
  // The logits choose; scores are made of the chosen ones only. Then there is neither bias nor groups.
  bool score_chosen = false;
  // Groups of neighbours, each of at least two experts. A group is worth the sum of its two best choices.
  size_t groups = 1, top_groups = 1;
  bool renormalize = true;  // weights are divided by their sum + eps
  float eps = 0;
  float scale = 1;
  bool operator==(const RouterSpec&) const = default;
};

// logits [experts] -> chosen [top], largest score + bias first, and weights [top]. Equal experts, as equal
// groups: the lower first. bias [experts] may be null: 0. False if a choice or a weight is NaN.
bool route(const RouterSpec& router, const float* logits, const float* bias, int32_t* chosen, float* weights);

// The parts of it.

// scores[i] = sqrt(log(1 + e^logits[i])); in place allowed.
void router_scores(const float* logits, size_t experts, float* scores);
void router_scores(RouterScore score, const float* logits, size_t count, float* scores);

// The `count` experts with the largest scores[i] + bias[i], largest first, equal ones the lower id first.
// False if any sum is NaN.
bool choose_experts(const float* scores, const float* bias, size_t experts, size_t count, int32_t* chosen);

// weights[i] = scores[chosen[i]] / (sum of these) * scaling.
void routing_weights(const float* scores, const int32_t* chosen, size_t count, float scaling, float* weights);

}  // namespace nibblecast
