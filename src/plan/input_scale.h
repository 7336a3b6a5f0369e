// plan/input_scale.h - from measured activations to input scales.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/activation_amax.h"
#include "plan/options.h"
#include "plan/plan.h"

namespace nibblecast {

// The amaxes of a tap by the plan's options: one, or one an expert; all finite and > 0. An expert whose amax is
// 0, as it is without tokens, gets its own layer's largest; with --input-scale layer all get that. Throws
// kBadInput naming layer, tap and expert: a vector that is needed is not there or has another length; a value
// above what the weights allow (Plan::bounds; in a run of ours that is a bug, in a file somebody else's);
// every amax of a layer is 0; a value that gives no positive scale. `file` names the amax's origin.
std::vector<float> tap_amax(const Plan& plan, const Tap& tap, const LayerAmax& amax, const std::string& file);

// The name of a tap's entry in messages and in the amax file: "layers.3.attn.in.amax".
std::string tap_entry(uint64_t layer, const std::string& tap);

// The tap of a linear that the plan knows by its model.
const Tap& tap_of(const Plan& plan, const PlannedLinear& linear);

// The scale of keys or values in an FP8 cache, from the layer's entry. Throws kBadInput where that is missing or
// gives no positive scale.
float cache_scale(const PlannedCacheScale& scale, const LayerAmax& amax, const std::string& file);

// From an amax, the input_scale of a linear made as `make`.
float input_scale_of(Make make, float amax);

// Calls use(index into Plan::tensors, value) for every scale of a stage that comes from its layer's
// activations: of caches, and unless they are constant the input scales. Throws as the above.
void for_each_scale(const Plan& plan, const Stage& stage, const LayerAmax& amax, const std::string& file,
                    const std::function<void(uint32_t tensor, float value)>& use);

// The entries of the amax file that a plan with this --w2-input reads of a tap: its own, its weighted one, or
// both.
std::vector<std::string> read_entries(const Plan& plan, const Tap& tap);

}  // namespace nibblecast
