#include "plan/input_scale_rule.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || !std::isfinite(value) || !(value > 0)) return std::nullopt;
  return value;
}

using Base = InputScaleRule::Base;

std::optional<InputScaleRule> rule_of(const std::string& text) {
  if (text == "none") return InputScaleRule{text, Base::kUnrounded};
  if (text == "calibrated") return InputScaleRule{text, Base::kReduced};
  if (text == "own") return InputScaleRule{text, Base::kOwn};
  const std::string_view view = text;
  const char first = text.empty() ? '\0' : text[0];
  const std::optional<double> rest = number_of(view.substr(std::min<size_t>(1, view.size())));
  if (first == 'p' && rest && *rest <= 100) return InputScaleRule{text, Base::kPercentile, 1, *rest / 100};
  if (first == 'x' && rest) return InputScaleRule{text, Base::kReduced, static_cast<float>(*rest)};
  if (first == '/' && rest) return InputScaleRule{text, Base::kReduced, static_cast<float>(1 / *rest)};
  if (const std::optional<double> constant = number_of(view))
    return InputScaleRule{text, Base::kConstant, static_cast<float>(*constant)};
  return std::nullopt;
}

// Scales of one layer under a rule.
class Layer {
 public:
  Layer(const InputScaleRule& rule, const StoredInputScales& stored, const LayerTable& table,
        const TapBlocks& blocks)
      : rule_(rule), table_(table), blocks_(blocks) {
    for (const auto& [module, own] : stored)
      largest_[sharers(*module)] = std::max(largest_[sharers(*module)], own);
  }

  float scale(const WeightModule& module, float own) const {
    const float scale = base(module, own) * rule_.factor;
    const bool is_empty = rule_.base == Base::kPercentile && scale == 0;
    if (is_empty || (scale > 0 && std::isfinite(scale))) return scale;
    throw Error(ErrorKind::kBadInput, {.tensor = module.name + ".input_scale"},
                "is no scale that inputs can be rounded with under " + rule_.name,
                {.expected = "a number above 0", .found = std::to_string(scale)});
  }

 private:
  // By tap: a layer's routed experts have two, their inputs and what enters down.
  using Sharers = std::pair<uint16_t, int32_t>;
  Sharers sharers(const WeightModule& module) const {
    return {module.tap, rule_.base == Base::kOwn ? module.id.expert : 0};
  }

  float base(const WeightModule& module, float own) const {
    switch (rule_.base) {
      case Base::kUnrounded:
        return 0;
      case Base::kReduced:
      case Base::kOwn:
        return module.tap == kNoTap ? own : largest_.at(sharers(module));
      case Base::kConstant:
        return 1;
      case Base::kPercentile:
        return nvfp4_global_scale(percentile(module));
    }
    return 0;
  }

  float percentile(const WeightModule& module) const {
    const Tap* const tap = table_.tap_of(module);
    const auto blocks = tap == nullptr ? blocks_.end() : blocks_.find(tap->name);
    if (blocks != blocks_.end()) return blocks->second.percentile(rule_.share);
    throw Error(ErrorKind::kUnsupported, {.tensor = module.name},
                "nothing is known of the blocks of its input, which " + rule_.name + " is made of",
                {.hint = "leave percentiles out of --input-scales"});
  }

  const InputScaleRule& rule_;
  const LayerTable& table_;
  const TapBlocks& blocks_;
  std::map<Sharers, float> largest_;
};

}  // namespace

InputScaleRule parse_input_scale_rule(const std::string& text) {
  if (std::optional<InputScaleRule> rule = rule_of(text)) return *std::move(rule);
  throw Error(ErrorKind::kUsage, {}, "'" + text + "' is no rule for input scales",
              {.expected = "calibrated, own, a percentile (p99.99), a factor (x2, /2) or a number (1.0)",
               .hint = {}});
}

LayerInputScales apply_rule(const InputScaleRule& rule, const StoredInputScales& stored,
                            const LayerTable& table, const TapBlocks& source_blocks) {
  LayerInputScales scales;
  if (rule.base == Base::kUnrounded) return scales;
  const Layer layer(rule, stored, table, source_blocks);
  scales.mlps.resize(table.mlps());
  for (const auto& [module, own] : stored) {
    const float scale = layer.scale(*module, own);
    scales.modules[module->name] = scale;
    if (!module->streams()) continue;
    LayerInputScales::Mlp& mlp = scales.mlps[static_cast<size_t>(std::max(0, module->id.expert))];
    (module->id.role == Role::kDown ? mlp.mid : mlp.in) = scale;
  }
  return scales;
}

}  // namespace nibblecast
