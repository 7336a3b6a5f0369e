#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "checkpoint/printable.h"
#include "cli/inspect_parts.h"
#include "cli/summary.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

// Above this many times the median a value moves the layer's input_scale by two bits; below the inverse of
// the other its own scale is far from the layer's: few tokens, or a damaged file.
constexpr float kFarAbove = 4;
constexpr float kFarBelow = 16;
// On each side of a layer.
constexpr size_t kNeighbours = 2;
constexpr size_t kMostOutliers = 10;
constexpr size_t kMostRanges = 8;

float largest(const std::vector<float>& amax) {
  return amax.empty() ? 0 : *std::max_element(amax.begin(), amax.end());
}

// Of those that saw tokens.
float median(std::vector<float> amax) {
  std::erase(amax, 0.0f);
  if (amax.empty()) return 0;
  const auto middle = amax.begin() + static_cast<std::ptrdiff_t>(amax.size() / 2);
  std::nth_element(amax.begin(), middle, amax.end());
  return *middle;
}

// A value far from what is usual among its like: the experts of one layer, one input in all layers, the
// layers beside its own.
struct Outlier {
  uint64_t layer = 0;
  std::string module;  // "expert 17 experts.in", "attn.in", "all experts experts.in": the layer's median
  float amax = 0, ratio = 0;

  float distance() const { return std::max(ratio, 1 / ratio); }
};

void add_outlier(uint64_t layer, const std::string& module, float amax, float usual,
                 std::vector<Outlier>& outliers) {
  if (usual == 0 || amax == 0) return;
  if (amax > kFarAbove * usual || amax * kFarBelow < usual) {
    outliers.push_back({layer, module, amax, amax / usual});
  }
}

// What one input of linears has in the layers.
struct Input {
  std::vector<float> amax;
  std::vector<uint64_t> layers;
};
using Inputs = std::map<std::string, Input>;

Inputs inputs_of(const AmaxFile& amax) {
  Inputs inputs;
  for (const LayerAmax& layer : amax.layers) {
    for (const auto& [entry, values] : layer.taps) {
      if (is_of_experts(entry) || values.empty()) continue;
      inputs[entry].amax.push_back(values[0]);
      inputs[entry].layers.push_back(layer.layer);
    }
  }
  return inputs;
}

// Of the experts, in any layer.
std::set<std::string> expert_entries(const AmaxFile& amax) {
  std::set<std::string> entries;
  for (const LayerAmax& layer : amax.layers) {
    for (const auto& [entry, unused] : layer.taps)
      if (is_of_experts(entry)) entries.insert(entry);
  }
  return entries;
}

const std::vector<float>& values_of(const LayerAmax& layer, const std::string& entry) {
  static const std::vector<float> kNone;
  const auto found = layer.taps.find(entry);
  return found == layer.taps.end() ? kNone : found->second;
}

// Layers whose experts' median is far from that of the layers around: grows and shrinks slowly in a model.
void add_odd_layers(const AmaxFile& amax, std::vector<Outlier>& outliers) {
  for (const std::string& entry : expert_entries(amax)) {
    std::vector<float> medians;
    for (const LayerAmax& layer : amax.layers) medians.push_back(median(values_of(layer, entry)));
    for (size_t at = 0; at < medians.size(); ++at) {
      std::vector<float> around;
      for (size_t other = at - std::min(at, kNeighbours); other <= at + kNeighbours; ++other) {
        if (other != at && other < medians.size()) around.push_back(medians[other]);
      }
      const float usual = median(around);
      if (medians[at] == 0 || usual == 0) continue;
      const float ratio = medians[at] / usual;
      if (ratio > kFarBelow || ratio * kFarBelow < 1)
        outliers.push_back({amax.layers[at].layer, fmt::format("all experts {}", entry), medians[at], ratio});
    }
  }
}

std::vector<Outlier> outliers_of(const AmaxFile& amax, const Inputs& inputs) {
  std::vector<Outlier> outliers;
  for (const LayerAmax& layer : amax.layers) {
    for (const auto& [entry, values] : layer.taps) {
      if (!is_of_experts(entry)) continue;
      const float usual = median(values);
      for (size_t expert = 0; expert < values.size(); ++expert)
        add_outlier(layer.layer, fmt::format("expert {} {}", expert, entry), values[expert], usual, outliers);
    }
  }
  add_odd_layers(amax, outliers);
  for (const auto& [entry, input] : inputs) {
    const float usual = median(input.amax);
    for (size_t i = 0; i < input.amax.size(); ++i)
      add_outlier(input.layers[i], entry, input.amax[i], usual, outliers);
  }
  std::stable_sort(outliers.begin(), outliers.end(),
                   [](const Outlier& a, const Outlier& b) { return a.distance() > b.distance(); });
  return outliers;
}

// null where the file has none.
Json tokens_json(const std::vector<int64_t>& tokens) {
  if (tokens.empty()) return nullptr;
  return {{"least", *std::min_element(tokens.begin(), tokens.end())},
          {"most", *std::max_element(tokens.begin(), tokens.end())}};
}

Json layer_json(const LayerAmax& layer) {
  Json taps = Json::object();
  for (const auto& [entry, values] : layer.taps)
    taps[entry] = {{"max", largest(values)}, {"median", median(values)}};
  return {{"layer", layer.layer},
          {"taps", std::move(taps)},
          {"tokens", tokens_json(layer.tokens)},
          {"experts_without_tokens", experts_without_tokens(layer)},
          {"experts_that_contradict", contradicting_experts(layer)}};
}

std::string layer_text(const LayerAmax& layer, const std::set<std::string>& entries) {
  std::string text = fmt::format("{:>5}", layer.layer);
  for (const std::string& entry : entries) {
    const std::vector<float>& values = values_of(layer, entry);
    text += fmt::format(" {:>9.4g} {:>9.4g}", largest(values), median(values));
  }
  if (!layer.tokens.empty())
    text += fmt::format(" {:>8}", *std::min_element(layer.tokens.begin(), layer.tokens.end()));
  const std::vector<uint64_t> starved = experts_without_tokens(layer);
  if (!starved.empty())
    text += fmt::format("  {} without tokens: {}", starved.size(), list_text(starved, kMostRanges));
  return summary_line("", text);
}

// A line a layer, of those with experts: of each entry the largest and the median.
std::string experts_text(const AmaxFile& amax) {
  const std::set<std::string> entries = expert_entries(amax);
  if (entries.empty()) return "";
  std::string text = summary_line(
      "experts",
      fmt::format("by layer the largest and the median of {}; least tokens", fmt::join(entries, ", ")));
  for (const LayerAmax& layer : amax.layers)
    if (knows_experts(layer)) text += layer_text(layer, entries);
  return text;
}

std::string coverage_line(const AmaxFile& amax) {
  uint64_t starved = 0, layers = 0;
  for (const LayerAmax& layer : amax.layers) {
    const size_t here = experts_without_tokens(layer).size();
    starved += here;
    layers += here > 0 ? 1 : 0;
  }
  const auto total = amax.metadata.find("layers");
  return summary_line(
      "coverage",
      fmt::format("{} of {} layers; {} experts without tokens, in {} layers", amax.layers.size(),
                  total == amax.metadata.end() ? "?" : printable(total->second), starved, layers));
}

// Experts whose count of tokens and amax exclude each other.
std::string contradictions_text(const AmaxFile& amax) {
  std::string text;
  for (const LayerAmax& layer : amax.layers) {
    const std::vector<uint64_t> experts = contradicting_experts(layer);
    if (experts.empty()) continue;
    text +=
        summary_line(text.empty() ? "contradicts" : "",
                     fmt::format("layer {}: tokens without an amax, or an amax without tokens, in experts {}",
                                 layer.layer, list_text(experts, kMostRanges)));
  }
  return text;
}

std::string inputs_text(const Inputs& inputs) {
  if (inputs.empty()) return "";
  std::string text = summary_line("inputs", "layers       max    median  of");
  for (const auto& [entry, input] : inputs) {
    text += summary_line("", fmt::format("{:>6} {:>9.4g} {:>9.4g}  {}", input.amax.size(),
                                         largest(input.amax), median(input.amax), printable(entry)));
  }
  return text;
}

std::string outliers_text(const std::vector<Outlier>& outliers) {
  std::string text = summary_line(
      "outliers",
      fmt::format("{} values above {} times or below 1/{} of the median of their layer's experts, or of "
                  "that input in all layers; or layers {} times above or below those around",
                  outliers.size(), kFarAbove, kFarBelow, kFarBelow));
  for (size_t i = 0; i < std::min(outliers.size(), kMostOutliers); ++i) {
    const Outlier& outlier = outliers[i];
    text += summary_line("", fmt::format("layer {} {}: {:.4g}, {:.3g} times the median", outlier.layer,
                                         printable(outlier.module), outlier.amax, outlier.ratio));
  }
  if (outliers.size() > kMostOutliers) {
    text += summary_line("", fmt::format("and {} more", outliers.size() - kMostOutliers));
  }
  return text;
}

Json outliers_json(const std::vector<Outlier>& outliers) {
  Json json = Json::array();
  for (const Outlier& outlier : outliers) {
    json.push_back({{"layer", outlier.layer},
                    {"module", outlier.module},
                    {"amax", outlier.amax},
                    {"times_median", outlier.ratio}});
  }
  return json;
}

}  // namespace

Shown show_amax(const std::string& path, const AmaxFile& amax) {
  const Inputs inputs = inputs_of(amax);
  const std::vector<Outlier> outliers = outliers_of(amax, inputs);
  Shown shown;
  shown.text = summary_line("path", path);
  for (const auto& [key, value] : amax.metadata) {
    shown.text += summary_line("metadata", fmt::format("{}: {}", printable(key), printable(value)));
  }
  shown.text += coverage_line(amax) + contradictions_text(amax) + experts_text(amax) + inputs_text(inputs) +
                outliers_text(outliers);
  Json layers = Json::array();
  for (const LayerAmax& layer : amax.layers) layers.push_back(layer_json(layer));
  shown.json = {{"path", path},
                {"file_format", kAmaxFormat},
                {"metadata", amax.metadata},
                {"layers", std::move(layers)},
                {"outliers", outliers_json(outliers)}};
  return shown;
}

}  // namespace nibblecast
