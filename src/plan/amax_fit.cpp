#include "plan/amax_fit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "plan/input_scale.h"
#include "plan/second_moments.h"

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
  Fit(const Plan& plan, const AmaxFile& amax, const std::string& file)
      : plan_(plan), amax_(amax), file_(file) {}

  void require() const {
    for (const LayerAmax& layer : amax_.layers) require_known(layer);
    require_complete();
    require_moments();
    for (const Stage& stage : plan_.stages) {
      const LayerAmax* layer = stage.layer ? find_layer(amax_.layers, *stage.layer) : nullptr;
      if (layer == nullptr) continue;
      for (const Tap* tap : needed_taps(stage)) tap_amax(plan_, *tap, *layer, file_);
      for (const PlannedCacheScale& scale : stage.cache_scales) cache_scale(scale, *layer, file_);
    }
  }

 private:
  // That an input_scale of the stage hangs on, in the table's order.
  std::vector<const Tap*> needed_taps(const Stage& stage) const {
    std::vector<const Tap*> taps;
    if (plan_.options.input_scale == InputScalePolicy::kConstant) return taps;
    for (const PlannedGroup& group : stage.groups) {
      for (const PlannedLinear& linear : group.linears) {
        if (linear.input_scale == kNone) continue;
        const Tap* tap = &tap_of(plan_, linear);
        if (std::ranges::find(taps, tap) == taps.end()) taps.push_back(tap);
      }
    }
    std::ranges::sort(taps);
    return taps;
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
    if (layer.layer >= plan_.layers()) {
      fail(prefix, "the model has no such layer", fmt::format("{} layers", plan_.layers()),
           fmt::format("layer {}", layer.layer));
    }
    const LayerTable& table = plan_.model->table.layers[layer.layer];
    if (!layer.tokens.empty() && layer.tokens.size() != table.experts)
      refuse_experts(prefix + ".experts.tokens", table.experts, layer.tokens.size());
    for (const auto& [entry, values] : layer.taps) {
      const auto tap = std::ranges::find_if(table.taps, [&entry = entry](const Tap& each) {
        return each.name == entry || (each.weighted && weighted_tap(each.name) == entry);
      });
      const std::string name = printable(tap_entry(layer.layer, entry));
      if (tap == table.taps.end())
        fail(name, "the model has no such input", "an input of the model's linears", "");
      const uint64_t count = std::max<uint64_t>(1, tap->experts);
      if (values.size() != count) refuse_experts(name, count, values.size());
    }
    for (const auto& [entry, values] : layer.second_moments) {
      const auto tap = std::ranges::find(table.taps, entry, &Tap::name);
      const std::string name = printable(moment_entry(layer.layer, entry));
      if (tap == table.taps.end() || table.channels_of(static_cast<size_t>(tap - table.taps.begin())) == 0)
        fail(name, "the model has no such input", "an input of the model's linears", "");
      const std::string misfit = moments_misfit(table, *tap, layer);
      if (!misfit.empty()) fail(name, "does not fit the model", "a number for each channel", misfit);
    }
  }

  [[noreturn]] void refuse_experts(const std::string& name, uint64_t expected, uint64_t found) const {
    fail(name, "the model has another number of experts", std::to_string(expected), std::to_string(found));
  }

  void require_moments() const {
    std::vector<std::string> missing;
    for (const Stage& stage : plan_.stages) {
      for (const PlannedGroup& group : stage.groups) {
        for (const PlannedLinear& linear : group.linears) {
          if (!needs_second_moments(plan_, linear)) continue;
          const LayerAmax* layer = find_layer(amax_.layers, *stage.layer);
          const std::string& tap = tap_of(plan_, linear).name;
          const std::string entry = moment_entry(*stage.layer, tap);
          if ((layer == nullptr || !layer->second_moments.contains(tap)) &&
              std::ranges::find(missing, entry) == missing.end())
            missing.push_back(entry);
        }
      }
    }
    if (missing.empty()) return;
    throw Error(
        ErrorKind::kBadInput, {.file = file_}, "holds no " + first_names(missing),
        {.expected = "the second moments that weight_method wmse needs",
         .found = fmt::format("{} of {} layers", amax_.layers.size(), plan_.layers()),
         .hint = "`nibblecast calibrate SRC --calib TEXTS --second-moments -o FILE` measures them; or give "
                 "another --weight-method"});
  }

  void require_complete() const {
    std::vector<std::string> missing;
    for (const Stage& stage : plan_.stages) {
      if (!stage.layer) continue;
      const std::vector<const Tap*> taps = needed_taps(stage);
      if (taps.empty() && stage.cache_scales.empty()) continue;
      const LayerAmax* layer = find_layer(amax_.layers, *stage.layer);
      if (layer == nullptr) {
        missing.push_back(fmt::format("layer {}", *stage.layer));
        continue;
      }
      for (const Tap* tap : taps) {
        for (const std::string& entry : read_entries(plan_, *tap))
          if (!layer->taps.contains(entry)) missing.push_back(tap_entry(layer->layer, entry));
      }
      for (const PlannedCacheScale& scale : stage.cache_scales)
        if (!layer->taps.contains(scale.entry)) missing.push_back(tap_entry(layer->layer, scale.entry));
    }
    if (missing.empty()) return;
    throw Error(ErrorKind::kBadInput, {.file = file_}, "holds no amax of " + first_names(missing),
                {.expected = "all that the recipe needs",
                 .found = fmt::format("{} of {} layers", amax_.layers.size(), plan_.layers()),
                 .hint = "was calibration interrupted, or made for another model or --w2-input? "
                         "`nibblecast inspect` shows what the file holds"});
  }

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
    const size_t here = experts_of(layer).size();
    if (here > 0) where.push_back(std::to_string(layer.layer));
    experts += here;
  }
  if (experts == 0) return;
  sentences.push_back(fmt::format("{}: {} {} (layer{} {})", file, counted(experts, "expert"), what,
                                  where.size() == 1 ? "" : "s", first_names(where)));
}

}  // namespace

void require_fitting_amax(const Plan& plan, const AmaxFile& amax, const std::string& file) {
  Fit(plan, amax, file).require();
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
    const std::vector<Tap>& taps = plan.model->table.layers[layer.layer].taps;
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const auto found = layer.taps.find(taps[tap].name);
      const float least = plan.bounds[layer.layer][tap].least;
      if (found == layer.taps.end() || least == 0) continue;
      const auto below = [&](float value) { return value > 0 && value < least; };
      const auto first = std::ranges::find_if(found->second, below);
      if (first == found->second.end()) continue;
      sentences.push_back(fmt::format(
          "{}: {}: {}{}, as {} of {} values; the weights of {} give at least {}", file,
          tap_entry(layer.layer, taps[tap].name), *first,
          taps[tap].experts == 0 ? "" : fmt::format(" in expert {}", first - found->second.begin()),
          std::ranges::count_if(found->second, below), found->second.size(), taps[tap].norm, least));
    }
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
