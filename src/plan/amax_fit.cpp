#include "plan/amax_fit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "plan/input_scale.h"

namespace nibblecast {
namespace {

constexpr size_t kMostNames = 6;

// "a, b, c and 12 more"
std::string first_names(const std::vector<std::string>& names) {
  const auto first = std::span(names).first(std::min(names.size(), kMostNames));
  const size_t rest = names.size() - first.size();
  return fmt::format("{}{}", fmt::join(first, ", "), rest == 0 ? "" : fmt::format(" and {} more", rest));
}

std::string counted(size_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

class Fit {
 public:
  Fit(const Checkpoint& source, const Plan& plan, const AmaxFile& amax, const std::string& file)
      : source_(source), plan_(plan), amax_(amax), file_(file) {}

  void require() const {
    for (const LayerAmax& layer : amax_.layers) require_known(layer);
    require_complete();
    for (const Stage& stage : plan_.stages) {
      const LayerAmax* layer = stage.layer ? find_layer(amax_.layers, *stage.layer) : nullptr;
      if (layer == nullptr) continue;
      for (const PlannedGroup& group : stage.groups) {
        if (!group.expert) group_input_amax(source_, group, *layer, file_);
      }
      if (needs_experts(stage)) layer_input_scales(plan_, layer->layer, layer->experts, file_);
    }
  }

 private:
  static bool has_input_scale(const PlannedGroup& group) {
    return std::ranges::any_of(group.linears, [](const auto& each) { return each.input_scale != kNone; });
  }
  static bool needs_experts(const Stage& stage) {
    return std::ranges::any_of(stage.groups,
                               [](const auto& group) { return group.expert && has_input_scale(group); });
  }

  [[noreturn]] void fail(const std::string& tensor, const std::string& problem, std::string expected,
                         std::string found) const {
    throw Error(ErrorKind::kBadInput, {.file = file_, .tensor = tensor}, problem,
                {.expected = std::move(expected),
                 .found = std::move(found),
                 .hint = "the file belongs to another model"});
  }

  // What no calibration of this model gives.
  void require_known(const LayerAmax& layer) const {
    const std::string prefix = fmt::format("layers.{}", layer.layer);
    if (layer.layer >= plan_.model.num_hidden_layers) {
      fail(prefix, "the model has no such layer", fmt::format("{} layers", plan_.model.num_hidden_layers),
           fmt::format("layer {}", layer.layer));
    }
    const ExpertAmax& experts = layer.experts;
    for (const size_t count :
         {experts.w13.size(), experts.w2.size(), experts.w2_weighted.size(), experts.tokens.size()}) {
      if (count == 0 || count == plan_.model.n_routed_experts) continue;
      fail(prefix + ".ffn.experts", "the model has another number of experts",
           std::to_string(plan_.model.n_routed_experts), std::to_string(count));
    }
    for (const auto& [module, unused] : layer.linears) {
      if (source_.find(module + ".weight") != nullptr) continue;
      fail(printable(module) + ".input_amax", "the model has no such linear", "a linear of the model", "");
    }
  }

  void require_complete() const {
    std::vector<std::string> missing;
    for (const Stage& stage : plan_.stages) {
      if (!stage.layer || !std::ranges::any_of(stage.groups, has_input_scale)) continue;
      if (const LayerAmax* layer = find_layer(amax_.layers, *stage.layer))
        add_missing(stage, *layer, missing);
      else
        missing.push_back(fmt::format("layer {}", *stage.layer));
    }
    if (missing.empty()) return;
    throw Error(ErrorKind::kBadInput, {.file = file_}, "holds no amax of " + first_names(missing),
                {.expected = "all that the recipe needs",
                 .found = fmt::format("{} of {} layers", amax_.layers.size(), plan_.model.num_hidden_layers),
                 .hint = "was calibration interrupted, or made for another model or --w2-input? "
                         "`nibblecast inspect` shows what the file holds"});
  }

  void add_missing(const Stage& stage, const LayerAmax& layer, std::vector<std::string>& missing) const {
    for (const PlannedGroup& group : stage.groups) {
      if (group.expert) continue;
      for (const PlannedLinear& linear : group.linears) {
        const std::string module = linear.input_scale == kNone ? "" : source_module(source_, linear);
        if (!module.empty() && !layer.linears.contains(module)) missing.push_back(module + ".input_amax");
      }
    }
    if (!needs_experts(stage)) return;
    const std::string prefix = fmt::format("layers.{}.ffn.experts.", layer.layer);
    const W2Input w2 = plan_.options.w2_input;
    if (layer.experts.w13.empty()) missing.push_back(prefix + "w13.input_amax");
    if (layer.experts.w2.empty() && w2 != W2Input::kWeighted) missing.push_back(prefix + "w2.input_amax");
    if (layer.experts.w2_weighted.empty() && w2 != W2Input::kUnweighted)
      missing.push_back(prefix + "w2.input_amax_weighted");
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const AmaxFile& amax_;
  const std::string& file_;
};

// One sentence for all layers where `experts_of` finds experts.
template <class ExpertsOf>
void add_layers(const std::vector<LayerAmax>& layers, const ExpertsOf& experts_of, const std::string& file,
                const char* what, std::vector<std::string>& sentences) {
  size_t experts = 0;
  std::vector<std::string> where;
  for (const LayerAmax& layer : layers) {
    const size_t here = experts_of(layer.experts).size();
    if (here > 0) where.push_back(std::to_string(layer.layer));
    experts += here;
  }
  if (experts == 0) return;
  sentences.push_back(fmt::format("{}: {} {} (layer{} {})", file, counted(experts, "expert"), what,
                                  where.size() == 1 ? "" : "s", first_names(where)));
}

}  // namespace

void require_fitting_amax(const Checkpoint& source, const Plan& plan, const AmaxFile& amax,
                          const std::string& file) {
  Fit(source, plan, amax, file).require();
}

std::optional<std::string> foreign_amax(const Checkpoint& source, const Plan& plan, const AmaxFile& amax,
                                        const std::string& file) {
  const auto said = [&](const char* key) {
    const auto found = amax.metadata.find(key);
    return found == amax.metadata.end() ? std::string() : printable(found->second);
  };
  const std::string model = said("model"), weights = said("weights"), here = source.folder().string();
  const std::string identity = source_identity(source);
  if (model.empty())
    return fmt::format("{} names no model: nothing says that it was measured on {}", file, here);
  if (model != identity) {
    return fmt::format("{} was measured on another model, {}; {} is {}", file, model, here, identity);
  }
  if (weights.empty()) {
    return fmt::format(
        "{} is of an older version and names only the headers and config of its model, not the "
        "weights: it may be a fine-tune's of {}, or its base's",
        file, here);
  }
  if (weights == plan.weights) return std::nullopt;
  return fmt::format(
      "{} was measured on other weights with the same headers, {}; those of {} are {}: is one "
      "of the two models a fine-tune of the other?",
      file, weights, here, plan.weights);
}

std::vector<std::string> amax_below_bounds(const Plan& plan, const std::vector<LayerAmax>& layers,
                                           const std::string& file) {
  std::vector<std::string> sentences;
  for (const LayerAmax& layer : layers) {
    const float least = plan.bounds[layer.layer].w13_least;
    const std::vector<float>& amax = layer.experts.w13;
    const auto below = [&](float value) { return value > 0 && value < least; };
    const auto first = std::ranges::find_if(amax, below);
    if (first == amax.end()) continue;
    sentences.push_back(
        fmt::format("{}: layer {}: the input of w1 and w3 has an amax of {} in expert {}, as in {} of {} "
                    "experts; ffn_norm's "
                    "weights give at least {}",
                    file, layer.layer, *first, first - amax.begin(), std::ranges::count_if(amax, below),
                    amax.size(), least));
  }
  return sentences;
}

std::vector<std::string> amax_warnings(const Checkpoint& source, const Plan& plan, const AmaxFile& amax,
                                       const std::string& file) {
  std::vector<std::string> sentences;
  if (auto foreign = foreign_amax(source, plan, amax, file)) sentences.push_back(std::move(*foreign));
  for (std::string& below : amax_below_bounds(plan, amax.layers, file)) sentences.push_back(std::move(below));
  add_layers(amax.layers, experts_without_tokens, file,
             "saw no token: the largest amax of the layer stands in", sentences);
  add_layers(amax.layers, contradicting_experts, file, "with an amax that its count of tokens contradicts",
             sentences);
  return sentences;
}

}  // namespace nibblecast
