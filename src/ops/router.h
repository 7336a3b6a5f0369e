// ops/router.h - which experts a token goes to, and with what weight. FP32.
// (DeepSeek-V4 inference/model.py, Gate, score function sqrtsoftplus)
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibblecast {

// scores[i] = sqrt(log(1 + e^logits[i])); in place allowed.
void router_scores(const float* logits, size_t experts, float* scores);

// The `count` experts with the largest scores[i] + bias[i], largest first, equal ones the lower id first.
// False if any sum is NaN.
bool choose_experts(const float* scores, const float* bias, size_t experts, size_t count, int32_t* chosen);

// weights[i] = scores[chosen[i]] / (sum of these) * scaling.
void routing_weights(const float* scores, const int32_t* chosen, size_t count, float scaling, float* weights);

}  // namespace nibblecast
