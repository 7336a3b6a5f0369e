#include "plan/engines/compressed_tensors_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "checkpoint/printable.h"
#include "plan/engines/modelopt_documents.h"
#include "plan/glob.h"

namespace nibblecast {
namespace {

using enum Engine;
constexpr std::string_view kPattern = "re:", kClass = "Linear";

// What decides a scheme, of an object of numbers.
struct NumbersRule {
  std::string_view strategy;
  int bits;
  Json group_size, dynamic;
};

bool fits(const Json& numbers, const NumbersRule& rule) {
  return at_or_null(numbers, "type") == "float" && at_or_null(numbers, "num_bits") == rule.bits &&
         at_or_null(numbers, "strategy") == rule.strategy && at_or_null(numbers, "symmetric") == true &&
         at_or_null(numbers, "group_size") == rule.group_size &&
         at_or_null(numbers, "dynamic") == rule.dynamic;
}

// As a pattern of plan/glob.h, of which the whole text must match; nothing for other than the simple ones.
std::optional<std::string> glob_of(std::string_view regex) {
  std::string glob;
  bool ends = false;
  if (regex.starts_with('^')) regex.remove_prefix(1);
  for (size_t at = 0; at < regex.size(); ++at) {
    const char c = regex[at];
    const char next = at + 1 < regex.size() ? regex[at + 1] : '\0';
    if (std::string_view("[](){}+?|*").find(c) != std::string_view::npos) return std::nullopt;
    if (c == '$') {
      if (next != '\0') return std::nullopt;
      ends = true;
    } else if (c == '\\') {
      if (next != '.' && next != '_' && next != '-') return std::nullopt;
      glob += next;
      ++at;
    } else if (c == '.') {
      glob += next == '*' ? '*' : '?';
      at += next == '*';
    } else {
      glob += c;
    }
  }
  return ends ? glob : glob + "*";
}

struct KeyRule {
  const char* key;
  std::vector<Json> values;
};

const std::vector<KeyRule>& key_rules() {
  static const std::vector<KeyRule> kRules = {
      {"quant_method", {"compressed-tensors"}},
      {"format", {"nvfp4-pack-quantized", "float-quantized", "mixed-precision"}},
      {"quantization_status", {"compressed"}},
  };
  return kRules;
}

void check_group(const std::string& name, const Json& group, bool is_alone, BreachList& breaches) {
  constexpr Engine kReader[] = {kTrtllm};
  const std::string_view scheme = scheme_of_group(group);
  if (scheme == kUnknown)
    breaches.add(kAllEngines, "",
                 fmt::format("quantization_config.config_groups.{} is no scheme of NVFP4, NVFP4A16 or FP8",
                             printable(name)));
  // tensorrt_llm/_torch/models/checkpoints/hf/compressed_tensors.py
  if (scheme == "NVFP4A16" || scheme == "FP8")
    breaches.add(kReader, "", fmt::format("groups of {} are not read", scheme));
  const std::vector<std::string> targets = strings_of(at_or_null(group, "targets"));
  if (targets.empty())
    breaches.add(kAllEngines, "",
                 fmt::format("quantization_config.config_groups.{} must have targets", printable(name)));
  const bool has_class = std::ranges::any_of(targets, [](const std::string& target) {
    return !target.starts_with(kPattern) && target.find('.') == std::string::npos && target != "lm_head";
  });
  if (has_class && !is_alone)
    breaches.add(kReader, "", "targets of several groups must be names or patterns, no classes");
}

}  // namespace

std::string_view scheme_of_group(const Json& group) {
  const Json weights = at_or_null(group, "weights"), inputs = at_or_null(group, "input_activations");
  if (fits(weights, {"tensor_group", 4, 16, false})) {
    if (inputs.is_null()) return "NVFP4A16";
    return fits(inputs, {"tensor_group", 4, 16, "local"}) ? "NVFP4" : kUnknown;
  }
  const NumbersRule fp8 = {"tensor", 8, nullptr, false};
  return fits(weights, fp8) && fits(inputs, fp8) ? "FP8" : kUnknown;
}

void TargetList::add(const std::string& target, std::string_view value) {
  if (!target.starts_with(kPattern)) {
    names_.emplace(target, value);  // the first group that names it
  } else if (auto glob = glob_of(std::string_view(target).substr(kPattern.size()))) {
    patterns_.emplace_back(std::move(*glob), value);
  }
}

std::string_view TargetList::find(const std::string& name) const {
  if (const auto found = names_.find(name); found != names_.end()) return found->second;
  for (const auto& [pattern, value] : patterns_)
    if (glob_match(pattern, name)) return value;
  return {};
}

std::string_view TargetList::find_end(const std::string& name) const {
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
    if (const auto found = names_.find(name.substr(dot + 1)); found != names_.end()) return found->second;
  return find(name);
}

std::string_view TargetList::linear() const {
  const auto found = names_.find(std::string(kClass));
  return found == names_.end() ? std::string_view() : std::string_view(found->second);
}

CompressedTensorsReading::CompressedTensorsReading(Engine engine, std::string model_type, const Json& config)
    : engine_(engine), model_type_(std::move(model_type)) {
  const Json quantization = at_or_null(config, "quantization_config");
  for (const std::string& target : strings_of(at_or_null(quantization, "ignore"))) ignored_.add(target, kPlain);
  const Json groups = at_or_null(quantization, "config_groups");
  if (!groups.is_object()) return;
  for (const auto& [unused, group] : groups.items()) {
    for (const std::string& target : strings_of(at_or_null(group, "targets")))
      targets_.add(target, scheme_of_group(group));
  }
}

// Engines ask for the experts' scheme by the names of expert 0; SGLang by those that most families have, vLLM
// by the checkpoint's, but for MiniMax-M2's block.
std::vector<std::string> CompressedTensorsReading::looked_up(const EngineUnit& unit) const {
  std::vector<std::string> names;
  if (unit.modules.empty()) return {unit.prefix};
  if (unit.kind == EngineUnit::Kind::kExperts && engine_ == kSglang)
    return {unit.prefix + ".0.gate_proj", unit.prefix + ".0.up_proj", unit.prefix + ".0.down_proj"};
  for (const WeightModule* module : unit.modules) {
    if (unit.kind == EngineUnit::Kind::kExperts && engine_ == kVllm && module->id.expert != 0) continue;
    names.push_back(module->name);
    constexpr std::string_view kBlock = ".block_sparse_moe.";
    if (unit.kind == EngineUnit::Kind::kExperts && engine_ == kVllm && model_type_ == "minimax_m2")
      names.back().replace(names.back().find(kBlock), kBlock.size(), ".mlp.");
  }
  return names;
}

std::string CompressedTensorsReading::scheme_of_name(const std::string& name, bool is_linear) const {
  // SGLang takes the end of a path too. (srt/layers/quantization/compressed_tensors/utils.py)
  const std::string_view ignored = engine_ == kSglang ? ignored_.find_end(name) : ignored_.find(name);
  if (!ignored.empty()) return std::string(ignored);
  const std::string_view scheme = targets_.find(name);
  return std::string(scheme.empty() && is_linear ? targets_.linear() : scheme);
}

std::string CompressedTensorsReading::scheme_of(const EngineUnit& unit, std::string& conflict) const {
  const auto is_role = [&](Role role) {
    return std::ranges::any_of(unit.modules,
                               [&](const WeightModule* module) { return module->id.role == role; });
  };
  // vllm/model_executor/models/deepseek_v2.py:Indexer
  if (engine_ == kVllm && (is_role(Role::kIndexK) || is_role(Role::kIndexWeights)))
    return std::string(kPlain);
  const bool is_head = unit.modules.empty() || unit.modules.front()->kind == ModuleKind::kHead;
  std::set<std::string> schemes;
  for (const std::string& name : looked_up(unit))
    schemes.insert(scheme_of_name(name, !is_head || engine_ == kTrtllm));
  if (schemes.size() > 1) {
    conflict = "its parts have different schemes by ignore and targets";
    return std::string(kPlain);
  }
  const std::string& scheme = *schemes.begin();
  // srt/layers/quantization/compressed_tensors/utils.py:find_matched_target
  if (scheme.empty() && engine_ == kSglang && !is_head)
    conflict = "no target of config_groups has it, and it is not ignored";
  return scheme.empty() ? std::string(kPlain) : scheme;
}

void check_compressed_tensors_keys(const Json& quantization, const Json& hf_quant_config,
                                   BreachList& breaches) {
  constexpr Engine kFileReader[] = {kTrtllm};
  for (const KeyRule& rule : key_rules()) {
    const Json found = at_or_null(quantization, rule.key);
    if (std::ranges::find(rule.values, found) != rule.values.end()) continue;
    breaches.add(kAllEngines, "",
                 fmt::format("quantization_config.{} must be {}; found {}", rule.key, rule.values[0].dump(),
                             found_text(found)));
  }
  const Json ignore = at_or_null(quantization, "ignore");
  if (!ignore.is_array())
    breaches.add(kAllEngines, "", "quantization_config.ignore must be a list; found " + found_text(ignore));
  const Json groups = at_or_null(quantization, "config_groups");
  if (!groups.is_object() || groups.empty()) {
    breaches.add(
        kAllEngines, "",
        "quantization_config.config_groups must be an object of groups; found " + found_text(groups));
  } else {
    for (const auto& [name, group] : groups.items()) check_group(name, group, groups.size() == 1, breaches);
  }
  if (!hf_quant_config.is_null())
    breaches.add(kFileReader, "", "hf_quant_config.json must be absent, or it is read instead");
}

}  // namespace nibblecast
