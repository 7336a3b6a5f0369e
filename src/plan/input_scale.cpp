#include "plan/input_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/fp8_quantize.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

void check(const std::vector<float>& amax, std::string_view name, uint64_t layer, uint64_t experts,
           float bound, const std::string& file) {
  const std::string tensor = fmt::format("layers.{}.ffn.experts.{}", layer, name);
  if (amax.size() != experts) {
    throw Error(ErrorKind::kBadInput, {.file = file, .tensor = tensor},
                "the amax of this layer's experts is needed",
                {.expected = fmt::format("{} values", experts),
                 .found = amax.empty() ? "none" : fmt::format("{}", amax.size()),
                 .hint = "was the amax file made for this model, with this --w2-input?"});
  }
  for (size_t expert = 0; expert < amax.size(); ++expert) {
    if (amax[expert] >= 0 && amax[expert] <= bound) continue;
    throw Error(ErrorKind::kBadInput, {.file = file, .tensor = tensor},
                fmt::format("the amax of expert {} is impossible with these weights", expert),
                {.expected = fmt::format("0 to {}", bound),
                 .found = fmt::format("{}", amax[expert]),
                 .hint = "the file holds garbage, or belongs to another model"});
  }
}

// An expert without tokens measured 0.
std::vector<float> scales_of(std::vector<float> amax, InputScalePolicy policy, uint64_t layer,
                             std::string_view name, const std::string& file) {
  const float largest = *std::max_element(amax.begin(), amax.end());
  if (!(largest > 0)) {
    throw Error(ErrorKind::kBadInput,
                {.file = file, .tensor = fmt::format("layers.{}.ffn.experts.{}", layer, name)},
                "every amax of this layer is 0: no expert saw a token", {.hint = "calibrate with more text"});
  }
  for (float& value : amax) {
    value = nvfp4_global_scale(policy != InputScalePolicy::kExpert || value == 0 ? largest : value);
    if (!(value > 0)) {
      throw Error(ErrorKind::kBadInput,
                  {.file = file, .tensor = fmt::format("layers.{}.ffn.experts.{}", layer, name)},
                  "an amax is so small that its scale is zero");
    }
  }
  return amax;
}

}  // namespace

LayerInputScales layer_input_scales(const Plan& plan, uint64_t layer, const ExpertAmax& experts,
                                    const std::string& file) {
  const QuantizeOptions& options = plan.options;
  const ActivationBound& bound = plan.bounds[layer];
  const uint64_t count = plan.model.n_routed_experts;
  check(experts.w13, "w13.input_amax", layer, count, bound.w13, file);
  if (options.w2_input != W2Input::kWeighted)
    check(experts.w2, "w2.input_amax", layer, count, bound.w2, file);
  if (options.w2_input != W2Input::kUnweighted) {
    check(experts.w2_weighted, "w2.input_amax_weighted", layer, count, bound.w2_weighted, file);
  }
  std::vector<float> w2 = options.w2_input == W2Input::kWeighted ? experts.w2_weighted : experts.w2;
  if (options.w2_input == W2Input::kMax) {
    for (size_t expert = 0; expert < count; ++expert)
      w2[expert] = std::max(w2[expert], experts.w2_weighted[expert]);
  }
  LayerInputScales scales;
  scales.w13 = scales_of(experts.w13, options.input_scale, layer, "w13.input_amax", file);
  scales.w2 = scales_of(std::move(w2), options.input_scale, layer, "w2.input_amax", file);
  return scales;
}

std::string source_module(const Checkpoint& source, const PlannedLinear& linear) {
  std::string module = source.tensors()[linear.source_weight].name;
  module.resize(module.size() - std::string_view(".weight").size());
  return module;
}

float group_input_amax(const Checkpoint& source, const PlannedGroup& group, const LayerAmax& amax,
                       const std::string& file) {
  float largest = 0;
  for (const PlannedLinear& linear : group.linears) {
    if (linear.input_scale == kNone) continue;
    const std::string module = source_module(source, linear);
    const auto found = amax.linears.find(module);
    if (found == amax.linears.end() || !(nvfp4_global_scale(found->second) > 0) ||
        !std::isfinite(found->second)) {
      throw Error(
          ErrorKind::kBadInput, {.file = file, .tensor = module + ".input_amax"},
          found == amax.linears.end() ? "the amax of this linear's input is needed"
                                      : "the amax gives no positive scale",
          {.found = found == amax.linears.end() ? "none" : fmt::format("{}", found->second),
           .hint = "was the amax file made for this model and recipe? `nibblecast calibrate` measures all"});
    }
    largest = std::max(largest, found->second);
  }
  return largest;
}

float input_scale_of(Make make, float amax) {
  return make == Make::kFp8Weight ? fp8_tensor_scale(amax) : nvfp4_global_scale(amax);
}

}  // namespace nibblecast
