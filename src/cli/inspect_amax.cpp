#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/printable.h"
#include "cli/inspect_parts.h"
#include "cli/summary.h"
#include "cli/text.h"

namespace nibblecast {
namespace {

// An expert whose amax is this many times its layer's median moves the layer's input_scale by two bits.
constexpr float kOutlierRatio = 4;
constexpr size_t kMostOutliers = 10;
constexpr size_t kMostRanges = 8;

float largest(const std::vector<float>& amax) {
  return amax.empty() ? 0 : *std::max_element(amax.begin(), amax.end());
}

// Of experts that saw tokens.
float median(std::vector<float> amax) {
  std::erase(amax, 0.0f);
  if (amax.empty()) return 0;
  const auto middle = amax.begin() + static_cast<std::ptrdiff_t>(amax.size() / 2);
  std::nth_element(amax.begin(), middle, amax.end());
  return *middle;
}

struct Outlier {
  uint64_t layer = 0, expert = 0;
  std::string_view projection;
  float amax = 0, ratio = 0;
};

void add_outliers(uint64_t layer, std::string_view projection, const std::vector<float>& amax,
                  std::vector<Outlier>& outliers) {
  const float usual = median(amax);
  for (size_t expert = 0; expert < amax.size(); ++expert) {
    if (usual > 0 && amax[expert] > kOutlierRatio * usual) {
      outliers.push_back({layer, expert, projection, amax[expert], amax[expert] / usual});
    }
  }
}

std::vector<uint64_t> without_tokens(const ExpertAmax& experts) {
  const std::vector<float>& amax = !experts.w13.empty() ? experts.w13 : experts.w2;
  std::vector<uint64_t> starved;
  for (size_t expert = 0; expert < amax.size(); ++expert) {
    if (amax[expert] == 0) starved.push_back(expert);
  }
  return starved;
}

Json layer_json(const LayerAmax& layer) {
  const ExpertAmax& experts = layer.experts;
  return {{"layer", layer.layer},
          {"linears", layer.linears},
          {"w13", {{"max", largest(experts.w13)}, {"median", median(experts.w13)}}},
          {"w2", {{"max", largest(experts.w2)}, {"median", median(experts.w2)}}},
          {"w2_weighted", {{"max", largest(experts.w2_weighted)}, {"median", median(experts.w2_weighted)}}},
          {"experts_without_tokens", without_tokens(experts)}};
}

std::string layer_text(const LayerAmax& layer) {
  const ExpertAmax& experts = layer.experts;
  std::string text =
      fmt::format("{:>5} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g} {:>9.4g}", layer.layer,
                  largest(experts.w13), median(experts.w13), largest(experts.w2), median(experts.w2),
                  largest(experts.w2_weighted), median(experts.w2_weighted));
  const std::vector<uint64_t> starved = without_tokens(experts);
  if (!starved.empty())
    text += fmt::format("  {} without tokens: {}", starved.size(), list_text(starved, kMostRanges));
  return summary_line("", text);
}

}  // namespace

Shown show_amax(const std::string& path, const AmaxFile& amax) {
  std::vector<Outlier> outliers;
  Shown shown;
  shown.text = summary_line("path", path);
  for (const auto& [key, value] : amax.metadata) {
    shown.text += summary_line("metadata", fmt::format("{}: {}", printable(key), printable(value)));
  }
  shown.text += summary_line("experts", "layer w1/w3 max    median    w2 max    median  weighted    median");
  Json layers = Json::array();
  for (const LayerAmax& layer : amax.layers) {
    shown.text += layer_text(layer);
    layers.push_back(layer_json(layer));
    add_outliers(layer.layer, "w13", layer.experts.w13, outliers);
    add_outliers(layer.layer, "w2", layer.experts.w2, outliers);
    add_outliers(layer.layer, "w2_weighted", layer.experts.w2_weighted, outliers);
  }
  std::stable_sort(outliers.begin(), outliers.end(),
                   [](const Outlier& a, const Outlier& b) { return a.ratio > b.ratio; });
  shown.text += summary_line("outliers", fmt::format("{} experts above {} times their layer's median",
                                                     outliers.size(), kOutlierRatio));
  Json json_outliers = Json::array();
  for (const Outlier& outlier : outliers) {
    json_outliers.push_back({{"layer", outlier.layer},
                             {"expert", outlier.expert},
                             {"projection", outlier.projection},
                             {"amax", outlier.amax},
                             {"times_median", outlier.ratio}});
    if (json_outliers.size() > kMostOutliers) continue;
    shown.text +=
        summary_line("", fmt::format("layer {} expert {} {}: {:.4g}, {:.1f} times", outlier.layer,
                                     outlier.expert, outlier.projection, outlier.amax, outlier.ratio));
  }
  shown.json = {{"path", path},
                {"format", kAmaxFormat},
                {"metadata", amax.metadata},
                {"layers", std::move(layers)},
                {"outliers", std::move(json_outliers)}};
  return shown;
}

}  // namespace nibblecast
