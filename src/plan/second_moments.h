// plan/second_moments.h - from measured second moments to what WeightMethod::kWmse weights errors with.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/activation_amax.h"
#include "plan/plan.h"

namespace nibblecast {

// Linears of a group that are made by kWmse.
bool needs_second_moments(const Plan& plan, const PlannedLinear& linear);

// The name of a tap's moments in messages and in the amax file: "layers.3.attn.in.second_moment".
std::string moment_entry(uint64_t layer, const std::string& tap);

// Of a tap that linears made by kWmse read: a sentence's end that says what is wrong with the layer's
// moments; empty: they are there, in the number that the model has.
std::string moments_misfit(const LayerTable& table, const Tap& tap, const LayerAmax& layer);

// Numbers that a layer's moments are, of all layers together and of the one with the most.
struct MomentCounts {
  uint64_t all = 0, largest_layer = 0;
};
MomentCounts moment_counts(const Model& model);

// One caller; `layers` outlive it.
class ChannelWeights {
 public:
  // `file`: where the moments come from, for messages.
  ChannelWeights(const Plan& plan, const std::vector<LayerAmax>& layers, std::string file)
      : plan_(plan), layers_(layers), file_(std::move(file)) {}

  // [cols] of a linear of the group of `expert`, by formats/channel_weights.h: of a routed expert with its
  // layer's mean over all experts as prior; of a grouped linear from the mean over its groups. kBadInput
  // where the moments are missing or do not fit.
  std::vector<float> of(const PlannedLinear& linear, std::optional<uint64_t> expert);

 private:
  const LayerAmax& layer_of(const Tap& tap, uint64_t layer) const;

  const Plan& plan_;
  const std::vector<LayerAmax>& layers_;
  const std::string file_;
  std::map<std::pair<uint64_t, std::string>, std::vector<float>> priors_;  // by layer and tap
};

}  // namespace nibblecast
