#include "plan/bounds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "formats/nvfp4.h"
#include "weights/container.h"

namespace nibblecast {
namespace {

// BF16 rounds RMSNorm's input and output and SwiGLU's factors: at most four half steps of 2^-9.
constexpr double kBf16Slack = 1 + 0x1p-7;

// The least and the largest magnitude of a norm's weight, as it multiplies.
struct NormRange {
  double least = std::numeric_limits<double>::max(), largest = 0;
};

NormRange norm_range(const Checkpoint& source, TensorReader& reader, const Tap& tap) {
  const Tensor& norm = source.at(tap.norm);
  const std::vector<std::byte> bytes = reader.read(norm);
  const auto index = static_cast<uint32_t>(&norm - source.tensors().data());
  const LinearSource plain = plain_source(source, index);
  std::vector<float> weights(plain.format.rows * plain.format.cols);
  const std::span<const std::byte> part = bytes;
  const auto report = dequantize_rows(plain.view(plain.format.rows, std::span(&part, 1)), 0,
                                      plain.format.rows, weights.data(), plain.format.cols);
  if (report.non_finite) {
    throw Error(ErrorKind::kBadInput,
                {.file = source.where(norm).file,
                 .tensor = norm.name,
                 .offset = norm.offset + *report.non_finite * dtype_bytes(norm.dtype)},
                "a norm weight is not finite");
  }
  NormRange range;
  for (const float weight : weights) {
    const double magnitude = std::fabs(double{weight} + (tap.norm_plus_one ? 1 : 0));
    range.least = std::min(range.least, magnitude);
    range.largest = std::max(range.largest, magnitude);
  }
  return range;
}

// What is proven of the inputs of a stage's linears.
struct Proven {
  float most = 0;  // of those with a bound; 0: none has one
  uint64_t unproven = 0;
};

Proven proven_of(const Plan& plan, const Stage& stage) {
  Proven proven;
  for (const PlannedGroup& group : stage.groups) {
    for (const PlannedLinear& linear : group.linears) {
      if (linear.input_scale == kNone) continue;
      const uint16_t tap = linear.module->tap;
      const float most = tap == kNoTap ? INFINITY
                                       : most_of(plan, plan.model->table.layers[*stage.layer].taps[tap],
                                                 plan.bounds[*stage.layer][tap]);
      if (std::isfinite(most))
        proven.most = std::max(proven.most, most);
      else
        ++proven.unproven;
    }
  }
  return proven;
}

}  // namespace

void bound_activations(const Checkpoint& source, Plan& plan) {
  TensorReader reader(source);
  const double slack = plan.options.compute_dtype == ComputeDtype::kBF16 ? kBf16Slack : 1;
  const auto rounded_up = [&](double bound) {
    return std::nextafter(static_cast<float>(bound * slack), INFINITY);
  };
  for (const LayerTable& layer : plan.model->table.layers) {
    std::vector<TapBound>& bounds = plan.bounds.emplace_back();
    std::unordered_map<std::string_view, NormRange> norms;  // several taps may have one
    for (const Tap& tap : layer.taps) {
      TapBound& bound = bounds.emplace_back();
      if (std::isfinite(tap.most)) bound.most = rounded_up(tap.most);
      if (std::isfinite(tap.most_weighted)) bound.most_weighted = rounded_up(tap.most_weighted);
      if (tap.norm.empty()) continue;
      const auto [norm, is_new] = norms.try_emplace(tap.norm);
      if (is_new) norm->second = norm_range(source, reader, tap);
      bound.most = rounded_up(std::sqrt(static_cast<double>(tap.width)) * norm->second.largest);
      bound.least = static_cast<float>(norm->second.least / kBf16Slack);
    }
  }
}

std::vector<std::string> doubts_of_constant_scale(const Plan& plan) {
  const float largest = kNvfp4Max * plan.options.constant_input_scale;
  uint64_t unproven = 0, unsafe_layers = 0, layers = 0;
  float bound = 0;
  for (const Stage& stage : plan.stages) {
    const Proven proven = proven_of(plan, stage);
    unproven += proven.unproven;
    if (proven.most == 0) continue;
    ++layers;
    unsafe_layers += !(proven.most <= largest);
    bound = std::max(bound, proven.most);
  }
  const std::string constant = fmt::format("a constant input_scale of {} represents activations up to {:.6g}",
                                           plan.options.constant_input_scale, largest);
  std::vector<std::string> doubts;
  if (unsafe_layers > 0)
    doubts.push_back(
        fmt::format("{}; in {} of {} layers the weights allow more, up to {:.6g}: what is above is clipped",
                    constant, unsafe_layers, layers, bound));
  if (unproven > 0)
    doubts.push_back(
        fmt::format("{}; the weights prove no bound for the inputs of {} linears", constant, unproven));
  return doubts;
}

}  // namespace nibblecast
