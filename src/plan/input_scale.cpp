#include "plan/input_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "formats/fp8_quantize.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

// The vector of an entry, checked against what the weights allow.
const std::vector<float>& checked(const LayerAmax& amax, const std::string& entry, size_t count, float bound,
                                  const std::string& file) {
  const std::string name = tap_entry(amax.layer, entry);
  const auto found = amax.taps.find(entry);
  if (found == amax.taps.end() || found->second.size() != count) {
    throw Error(
        ErrorKind::kBadInput, {.file = file, .tensor = name}, "the amax of this input is needed",
        {.expected = fmt::format("{} value{}", count, count == 1 ? "" : "s"),
         .found = found == amax.taps.end() ? "none" : fmt::format("{}", found->second.size()),
         .hint = "was the amax file made for this model and recipe, with this --w2-input? `nibblecast "
                 "calibrate` measures all"});
  }
  for (size_t i = 0; i < count; ++i) {
    const float value = found->second[i];
    if (value >= 0 && value <= bound && std::isfinite(value)) continue;
    throw Error(ErrorKind::kBadInput, {.file = file, .tensor = name},
                fmt::format("the amax{} is impossible with these weights",
                            count == 1 ? "" : fmt::format(" of expert {}", i)),
                {.expected = fmt::format("0 to {}", bound),
                 .found = fmt::format("{}", value),
                 .hint = "the file holds garbage, or belongs to another model"});
  }
  return found->second;
}

// A tap whose amaxes are all 0: experts without tokens, or a model that computes zeros.
[[noreturn]] void refuse_zeros(const Tap& tap, const LayerAmax& amax, const Where& where) {
  const bool unseen =
      tap.experts > 0 && std::ranges::all_of(amax.tokens, [](int64_t count) { return count == 0; });
  throw Error(
      ErrorKind::kBadInput, where,
      fmt::format("{}: {}", tap.experts > 0 ? "every amax of this layer is 0" : "the amax is 0",
                  unseen ? "no expert saw a token" : "whatever the token, what entered was 0"),
      {.hint = unseen ? "calibrate with more text"
                      : "are the weights before it all 0, the embedding or a norm? `nibblecast inspect SRC "
                        "--tensor NAME` shows a tensor's values"});
}

}  // namespace

std::string tap_entry(uint64_t layer, const std::string& tap) {
  return fmt::format("layers.{}.{}.amax", layer, tap);
}

const Tap& tap_of(const Plan& plan, const PlannedLinear& linear) {
  const LayerTable& layer = plan.model->table.layers.at(static_cast<size_t>(linear.module->id.layer));
  const Tap* tap = layer.tap_of(*linear.module);
  assert(tap != nullptr);
  return *tap;
}

std::vector<std::string> read_entries(const Plan& plan, const Tap& tap) {
  std::vector<std::string> entries;
  if (!tap.weighted || plan.options.w2_input != W2Input::kWeighted) entries.push_back(tap.name);
  if (tap.weighted && plan.options.w2_input != W2Input::kUnweighted)
    entries.push_back(weighted_tap(tap.name));
  return entries;
}

std::vector<float> tap_amax(const Plan& plan, const Tap& tap, const LayerAmax& amax,
                            const std::string& file) {
  const std::vector<Tap>& taps = plan.model->table.layers.at(amax.layer).taps;
  const TapBound& bound = plan.bounds.at(amax.layer).at(static_cast<size_t>(&tap - taps.data()));
  const size_t count = std::max<uint64_t>(1, tap.experts);
  std::vector<float> values(count, 0.0f);
  for (const std::string& entry : read_entries(plan, tap)) {
    const float most = entry == tap.name ? bound.most : bound.most_weighted;
    const std::vector<float>& measured = checked(amax, entry, count, most, file);
    for (size_t i = 0; i < count; ++i) values[i] = std::max(values[i], measured[i]);
  }
  const float largest = *std::ranges::max_element(values);
  const std::string name = tap_entry(amax.layer, tap.name);
  if (!(largest > 0)) refuse_zeros(tap, amax, {.file = file, .tensor = name});
  for (float& value : values) {
    if (plan.options.input_scale != InputScalePolicy::kExpert || value == 0) value = largest;
    if (nvfp4_global_scale(value) > 0) continue;
    throw Error(ErrorKind::kBadInput, {.file = file, .tensor = name},
                "an amax is so small that its scale is zero");
  }
  return values;
}

float cache_scale(const PlannedCacheScale& scale, const LayerAmax& amax, const std::string& file) {
  const float value = checked(amax, scale.entry, 1, std::numeric_limits<float>::infinity(), file)[0];
  const float result = fp8_tensor_scale(value);
  if (value > 0 && result > 0) return result;
  throw Error(ErrorKind::kBadInput, {.file = file, .tensor = tap_entry(amax.layer, scale.entry)},
              "the amax gives no positive scale", {.found = fmt::format("{}", value), .hint = {}});
}

float input_scale_of(Make make, float amax) {
  return make == Make::kFp8Weight ? fp8_tensor_scale(amax) : nvfp4_global_scale(amax);
}

void for_each_scale(const Plan& plan, const Stage& stage, const LayerAmax& amax, const std::string& file,
                    const std::function<void(uint32_t tensor, float value)>& use) {
  for (const PlannedCacheScale& scale : stage.cache_scales) use(scale.tensor, cache_scale(scale, amax, file));
  if (plan.options.input_scale == InputScalePolicy::kConstant) return;
  std::map<const Tap*, std::vector<float>> known;
  for (const PlannedGroup& group : stage.groups) {
    for (const PlannedLinear& linear : group.linears) {
      if (linear.input_scale == kNone) continue;
      const Tap& tap = tap_of(plan, linear);
      const auto [values, is_new] = known.try_emplace(&tap);
      if (is_new) values->second = tap_amax(plan, tap, amax, file);
      const float value = values->second[tap.experts == 0 ? 0 : group.expert.value()];
      use(linear.input_scale, input_scale_of(plan.tensors[linear.weight].make, value));
    }
  }
}

}  // namespace nibblecast
