// plan/flops.h - arithmetic of DeepSeek-V4's forward pass, in floating-point operations of one token.
#pragma once

#include <cstdint>

#include "model/deepseek_v4_config.h"

namespace nibblecast {

// Products with a layer's weights.
struct LayerFlops {
  double attention = 0;  // and hyper-connections and router
  double routed = 0;     // the experts that a token goes through
  double shared = 0;
  double sum() const { return attention + routed + shared; }
};
LayerFlops layer_flops(const DeepseekV4Config& config, uint64_t layer);

// Products with the head's.
double head_flops(const DeepseekV4Config& config);

// Queries against keys and values, on average over the tokens of a row of `length`.
double score_flops(const DeepseekV4Config& config, uint64_t layer, uint64_t length);

}  // namespace nibblecast
