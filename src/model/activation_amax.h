// model/activation_amax.h - what calibration records of one layer: the largest |x| that entered each linear.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace nibblecast {

struct ExpertAmax {                // each [E]; 0 for an expert without tokens
  std::vector<float> w13;          // input of w1 and w3
  std::vector<float> w2;           // input of w2 without the routing weight: silu(clamp(g)) * clamp(u)
  std::vector<float> w2_weighted;  // the same times the routing weight (which includes routed_scaling_factor)
  std::vector<int64_t> tokens;     // tokens routed to the expert

  bool operator==(const ExpertAmax&) const = default;
};

struct LayerAmax {
  uint64_t layer = 0;
  std::map<std::string, float> linears;  // official module name ("layers.3.attn.wq_a") -> amax of its input
  ExpertAmax experts;

  bool operator==(const LayerAmax&) const = default;
};

}  // namespace nibblecast
