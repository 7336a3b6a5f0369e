#include <fmt/format.h>

#include <algorithm>
#include <map>
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

// A value far from what is usual among its like: the experts of one layer, one linear in all layers, the
// layers beside its own.
struct Outlier {
  uint64_t layer = 0;
  std::string module;  // "expert 17 w13", "attn.wq_a", "all experts w13": the median of the layer
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

// "attn.wq_a" of "layers.3.attn.wq_a".
std::string kind_of(const std::string& module) {
  size_t begin = 0;
  for (int dots = 0; dots < 2 && begin != std::string::npos; ++dots) {
    const size_t dot = module.find('.', begin);
    begin = dot == std::string::npos ? dot : dot + 1;
  }
  return begin == std::string::npos ? module : module.substr(begin);
}

// What one kind of linear has in the layers.
struct Linear {
  std::vector<float> amax;
  std::vector<uint64_t> layers;
};
using Linears = std::map<std::string, Linear>;

Linears linears_of(const AmaxFile& amax) {
  Linears linears;
  for (const LayerAmax& layer : amax.layers) {
    for (const auto& [module, value] : layer.linears) {
      Linear& linear = linears[kind_of(module)];
      linear.amax.push_back(value);
      linear.layers.push_back(layer.layer);
    }
  }
  return linears;
}

constexpr std::pair<const char*, std::vector<float> ExpertAmax::*> kProjections[] = {
    {"w13", &ExpertAmax::w13}, {"w2", &ExpertAmax::w2}, {"w2_weighted", &ExpertAmax::w2_weighted}};

// Layers whose experts' median is far from that of the layers around: grows and shrinks slowly in a model.
void add_odd_layers(const AmaxFile& amax, std::vector<Outlier>& outliers) {
  for (const auto& [projection, values] : kProjections) {
    std::vector<float> medians;
    for (const LayerAmax& layer : amax.layers) medians.push_back(median(layer.experts.*values));
    for (size_t at = 0; at < medians.size(); ++at) {
      std::vector<float> around;
      for (size_t other = at - std::min(at, kNeighbours); other <= at + kNeighbours; ++other) {
        if (other != at && other < medians.size()) around.push_back(medians[other]);
      }
      const float usual = median(around);
      if (medians[at] == 0 || usual == 0) continue;
      const float ratio = medians[at] / usual;
      if (ratio > kFarBelow || ratio * kFarBelow < 1)
        outliers.push_back(
            {amax.layers[at].layer, fmt::format("all experts {}", projection), medians[at], ratio});
    }
  }
}

std::vector<Outlier> outliers_of(const AmaxFile& amax, const Linears& linears) {
  std::vector<Outlier> outliers;
  for (const LayerAmax& layer : amax.layers) {
    const ExpertAmax& experts = layer.experts;
    for (const auto& [projection, member] : kProjections) {
      const std::vector<float>& values = experts.*member;
      const float usual = median(values);
      for (size_t expert = 0; expert < values.size(); ++expert) {
        add_outlier(layer.layer, fmt::format("expert {} {}", expert, projection), values[expert], usual,
                    outliers);
      }
    }
  }
  add_odd_layers(amax, outliers);
  for (const auto& [kind, linear] : linears) {
    const float usual = median(linear.amax);
    for (size_t i = 0; i < linear.amax.size(); ++i) {
      add_outlier(linear.layers[i], kind, linear.amax[i], usual, outliers);
    }
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
  const ExpertAmax& experts = layer.experts;
  return {{"layer", layer.layer},
          {"linears", layer.linears},
          {"w13", {{"max", largest(experts.w13)}, {"median", median(experts.w13)}}},
          {"w2", {{"max", largest(experts.w2)}, {"median", median(experts.w2)}}},
          {"w2_weighted", {{"max", largest(experts.w2_weighted)}, {"median", median(experts.w2_weighted)}}},
          {"tokens", tokens_json(experts.tokens)},
          {"experts_without_tokens", experts_without_tokens(experts)},
          {"experts_that_contradict", contradicting_experts(experts)}};
}

std::string layer_text(const LayerAmax& layer) {
  const ExpertAmax& experts = layer.experts;
  std::string text =
      fmt::format("{:>5} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g}", layer.layer,
                  largest(experts.w13), median(experts.w13), largest(experts.w2), median(experts.w2),
                  largest(experts.w2_weighted), median(experts.w2_weighted));
  if (!experts.tokens.empty()) {
    text += fmt::format(" {:>8}", *std::min_element(experts.tokens.begin(), experts.tokens.end()));
  }
  const std::vector<uint64_t> starved = experts_without_tokens(experts);
  if (!starved.empty())
    text += fmt::format("  {} without tokens: {}", starved.size(), list_text(starved, kMostRanges));
  return summary_line("", text);
}

std::string coverage_line(const AmaxFile& amax) {
  uint64_t starved = 0, layers = 0;
  for (const LayerAmax& layer : amax.layers) {
    const size_t here = experts_without_tokens(layer.experts).size();
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
    const std::vector<uint64_t> experts = contradicting_experts(layer.experts);
    if (experts.empty()) continue;
    text +=
        summary_line(text.empty() ? "contradicts" : "",
                     fmt::format("layer {}: tokens without an amax, or an amax without tokens, in experts {}",
                                 layer.layer, list_text(experts, kMostRanges)));
  }
  return text;
}

std::string linears_text(const Linears& linears) {
  if (linears.empty()) return "";
  std::string text = summary_line("linears", "layers       max    median  of");
  for (const auto& [kind, linear] : linears) {
    text += summary_line("", fmt::format("{:>6} {:>9.4g} {:>9.4g}  {}", linear.amax.size(),
                                         largest(linear.amax), median(linear.amax), printable(kind)));
  }
  return text;
}

std::string outliers_text(const std::vector<Outlier>& outliers) {
  std::string text = summary_line(
      "outliers",
      fmt::format("{} values above {} times or below 1/{} of the median of their layer's experts, or of "
                  "their linear in all layers; or layers {} times above or below those around",
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
  const Linears linears = linears_of(amax);
  const std::vector<Outlier> outliers = outliers_of(amax, linears);
  Shown shown;
  shown.text = summary_line("path", path);
  for (const auto& [key, value] : amax.metadata) {
    shown.text += summary_line("metadata", fmt::format("{}: {}", printable(key), printable(value)));
  }
  shown.text += coverage_line(amax) + contradictions_text(amax);
  shown.text += summary_line(
      "experts", "layer w1/w3 max    median    w2 max    median  weighted    median least tokens");
  Json layers = Json::array();
  for (const LayerAmax& layer : amax.layers) {
    shown.text += layer_text(layer);
    layers.push_back(layer_json(layer));
  }
  shown.text += linears_text(linears) + outliers_text(outliers);
  shown.json = {{"path", path},
                {"file_format", kAmaxFormat},
                {"metadata", amax.metadata},
                {"layers", std::move(layers)},
                {"outliers", outliers_json(outliers)}};
  return shown;
}

}  // namespace nibblecast
