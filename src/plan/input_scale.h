// plan/input_scale.h - from measured activations to the input_scale of every expert.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/activation_amax.h"
#include "plan/options.h"
#include "plan/plan.h"

namespace nibblecast {

// Of one layer, by expert; all values finite and > 0.
struct LayerInputScales {
  std::vector<float> w13, w2;
};

// Checks and reduces. An expert whose amax is 0, as it is without tokens, gets its own layer's largest amax.
// Throws kBadInput naming layer, projection and expert: `experts` lacks a vector that the policy needs or has
// another length than the layer has experts; a value above what the weights allow (`bound`; in a run of ours
// that is a bug, in a file somebody else's); every amax of the layer is 0. `file` names the amax's
// origin.
LayerInputScales layer_input_scales(const Plan& plan, uint64_t layer, const ExpertAmax& experts,
                                    const std::string& file);

// The linear's official name, "layers.3.attn.wq_a".
std::string source_module(const Checkpoint& source, const PlannedLinear& linear);

// The amax of dense linears that share their input: the largest of those that have an input_scale; 0 where
// none has. Throws kBadInput naming the linear whose amax is missing, zero or not finite.
float group_input_amax(const Checkpoint& source, const PlannedGroup& group, const LayerAmax& amax,
                       const std::string& file);
// From it, the input_scale of a linear made as `make`.
float input_scale_of(Make make, float amax);

}  // namespace nibblecast
