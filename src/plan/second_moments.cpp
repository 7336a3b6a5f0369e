#include "plan/second_moments.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/error.h"
#include "calibration/amax_file.h"
#include "formats/channel_weights.h"
#include "plan/input_scale.h"

namespace nibblecast {
namespace {

size_t index_of(const LayerTable& table, const Tap& tap) {
  return static_cast<size_t>(&tap - table.taps.data());
}

// Of a grouped linear, whose groups read one part each of its tap.
std::vector<float> mean_of_groups(std::span<const float> moments, size_t cols) {
  const std::vector<int64_t> equal(moments.size() / cols, 1);
  return mean_of_experts(moments, equal);
}

}  // namespace

bool needs_second_moments(const Plan& plan, const PlannedLinear& linear) {
  return plan.tensors[linear.weight].make == Make::kNvfp4Weight && linear.method == WeightMethod::kWmse;
}

std::string moment_entry(uint64_t layer, const std::string& tap) {
  return fmt::format("layers.{}.{}.second_moment", layer, tap);
}

std::string moments_misfit(const LayerTable& table, const Tap& tap, const LayerAmax& layer) {
  const auto found = layer.second_moments.find(tap.name);
  if (found == layer.second_moments.end()) return "there are none";
  const uint64_t channels = table.channels_of(index_of(table, tap)) * std::max<uint64_t>(1, tap.experts);
  const uint64_t count = found->second.size();
  if (count == 0 || count % channels != 0 || (tap.experts > 0 && count != channels))
    return fmt::format("there are {}, and the model has {}", count, channels);
  if (tap.experts > 0 && layer.tokens.size() != tap.experts)
    return "the experts' counts of tokens are missing";
  return "";
}

MomentCounts moment_counts(const Model& model) {
  MomentCounts counts;
  for (const LayerTable& table : model.table.layers) {
    uint64_t layer = 0;
    for (size_t tap = 0; tap < table.taps.size(); ++tap) {
      const bool grouped = std::ranges::any_of(table.modules, [&](const WeightModule& module) {
        return module.tap == tap && module.kind == ModuleKind::kGroupedLinear;
      });
      constexpr uint64_t kMostGroups = 64;  // no model has as many
      layer += table.channels_of(tap) * std::max<uint64_t>(1, table.taps[tap].experts) *
               (grouped ? kMostGroups : 1);
    }
    counts.all += layer;
    counts.largest_layer = std::max(counts.largest_layer, layer);
  }
  return counts;
}

const LayerAmax& ChannelWeights::layer_of(const Tap& tap, uint64_t layer) const {
  const LayerAmax* const found = find_layer(layers_, layer);
  const std::string misfit =
      found == nullptr ? "there are none" : moments_misfit(plan_.model->table.layers[layer], tap, *found);
  if (misfit.empty()) return *found;
  throw Error(ErrorKind::kBadInput, {.file = file_, .tensor = moment_entry(layer, tap.name)},
              "the second moments that weight_method wmse needs do not fit: " + misfit,
              {.hint = "`nibblecast calibrate --second-moments` measures them"});
}

std::vector<float> ChannelWeights::of(const PlannedLinear& linear, std::optional<uint64_t> expert) {
  const Tap& tap = tap_of(plan_, linear);
  const auto number = static_cast<uint64_t>(linear.module->id.layer);
  const LayerAmax& layer = layer_of(tap, number);
  const std::span<const float> moments = layer.second_moments.at(tap.name);
  const size_t cols = linear.module->shape[1];
  if (tap.experts == 0)
    return channel_weights(moments.size() == cols ? std::vector(moments.begin(), moments.end())
                                                  : mean_of_groups(moments, cols));
  std::vector<float>& prior = priors_[{number, tap.name}];
  if (prior.empty()) prior = mean_of_experts(moments, layer.tokens);
  const uint64_t index = expert.value();
  return channel_weights(with_prior(moments.subspan(index * cols, cols), layer.tokens[index], prior));
}

}  // namespace nibblecast
