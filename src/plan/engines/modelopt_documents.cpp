#include "plan/engines/modelopt_documents.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

using enum Engine;
constexpr std::string_view kMixed = "MIXED_PRECISION";

std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : ""; }

// ---- keys ----

// One value that engines demand of quantization_config; null: the key must be absent.
struct KeyRule {
  const char* key;
  std::vector<Json> values;
  std::vector<Engine> engines;
};

const std::vector<KeyRule>& key_rules() {
  static const std::vector<KeyRule> kRules = {
      {"quant_method", {"modelopt"}, {kVllm, kSglang, kTrtllm}},
      {"quant_algo", {"NVFP4", "W4A16_NVFP4", "FP8", kMixed}, {kVllm, kSglang, kTrtllm}},
      // Where it is there, vLLM and SGLang read it instead of what stands beside it.
      {"quantization", {nullptr}, {kVllm, kSglang}},
      {"kv_cache_scheme",
       {nullptr, {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}}},
       {kVllm, kSglang, kTrtllm}},
  };
  return kRules;
}

std::string values_text(const std::vector<Json>& values) {
  std::vector<std::string> texts;
  for (const Json& value : values) texts.push_back(value.is_null() ? "absent" : value.dump());
  return fmt::format("{}", fmt::join(texts, " or "));
}

void check_keys(const Json& quantization, BreachList& breaches) {
  for (const KeyRule& rule : key_rules()) {
    const Json found = at_or_null(quantization, rule.key);
    if (std::ranges::find(rule.values, found) != rule.values.end()) continue;
    breaches.add(rule.engines, "",
                 fmt::format("quantization_config.{} must be {}; found {}", rule.key,
                             values_text(rule.values), found_text(found)));
  }
  // TensorRT-LLM has the same list in hf_quant_config.json.
  constexpr Engine kReaders[] = {kVllm, kSglang};
  const Json ignore = at_or_null(quantization, "ignore");
  if (!ignore.is_array())
    breaches.add(kReaders, "", "quantization_config.ignore must be a list; found " + found_text(ignore));
}

bool has_nvfp4(const Json& layers) {
  return layers.is_object() && std::ranges::any_of(layers, [](const Json& layer) {
           return text_of(at_or_null(layer, "quant_algo")).find("NVFP4") != std::string::npos;
         });
}

// Of one document.
void check_algorithm(const Json& quantization, const std::string& where, std::span<const Engine> engines,
                     BreachList& breaches) {
  const std::string algorithm = text_of(at_or_null(quantization, "quant_algo"));
  const Json group_size = at_or_null(quantization, "group_size");
  if (algorithm.find("NVFP4") != std::string::npos && group_size != 16)
    breaches.add(engines, "",
                 fmt::format("{}.group_size must be 16; found {}", where, found_text(group_size)));
  if (algorithm != kMixed) return;
  const Json layers = at_or_null(quantization, "quantized_layers");
  if (!layers.is_object() || layers.empty()) {
    breaches.add(engines, "",
                 where + ".quantized_layers must be an object that names every quantized module");
  } else if (!has_nvfp4(layers) && std::ranges::find(engines, kSglang) != engines.end()) {
    constexpr Engine kSglangAlone[] = {kSglang};
    breaches.add(kSglangAlone, "",
                 where + ".quantized_layers must name an NVFP4 module, or SGLang takes the model for W4AFP8");
  }
}

// TensorRT-LLM reads hf_quant_config.json, and warns where config.json says something else.
void check_agreement(const Json& quantization, const Json& hf_quantization, BreachList& breaches) {
  constexpr Engine kReader[] = {kTrtllm};
  const auto differ = [&](const char* key, const char* flat_key, const auto& values_of) {
    if (values_of(at_or_null(quantization, flat_key)) == values_of(at_or_null(hf_quantization, key))) return;
    breaches.add(
        kReader, "",
        fmt::format("hf_quant_config.json quantization.{} must say the same as quantization_config.{}", key,
                    flat_key));
  };
  const auto value = [](const Json& json) { return json; };
  const auto set = [](const Json& json) {
    const std::vector<std::string> strings = strings_of(json);
    return std::set<std::string>(strings.begin(), strings.end());
  };
  differ("quant_algo", "quant_algo", value);
  differ("group_size", "group_size", value);
  differ("quantized_layers", "quantized_layers", value);
  differ("exclude_modules", "ignore", set);
  differ("kv_cache_quant_algo", "kv_cache_scheme", [](const Json& json) { return json.is_null(); });
}

// ---- model classes ----

struct ModelClass {
  std::string_view model_type, architecture;
  std::vector<Engine> engines;
};

const std::vector<ModelClass>& model_classes() {
  static const std::vector<ModelClass> kClasses = {
      {"llama", "LlamaForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"mistral", "MistralForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"qwen2", "Qwen2ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"qwen3", "Qwen3ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"qwen3_moe", "Qwen3MoeForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"mixtral", "MixtralForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"glm4_moe", "Glm4MoeForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"minimax_m2", "MiniMaxM2ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"hy_v3", "HYV3ForCausalLM", {kVllm, kSglang}},
      {"deepseek_v3", "DeepseekV3ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"kimi_k2", "DeepseekV3ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"deepseek_v32", "DeepseekV32ForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"glm4_moe_lite", "Glm4MoeLiteForCausalLM", {kVllm, kSglang}},
      {"glm_moe_dsa", "GlmMoeDsaForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"qwen3_next", "Qwen3NextForCausalLM", {kVllm, kSglang, kTrtllm}},
      {"qwen3_5", "Qwen3_5ForConditionalGeneration", {kVllm, kSglang, kTrtllm}},
      {"qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", {kVllm, kSglang, kTrtllm}},
      {"ministral3", "Ministral3ForCausalLM", {kVllm, kSglang}},
      {"mistral3", "Mistral3ForConditionalGeneration", {kVllm, kSglang}},
      {"kimi_k25", "KimiK25ForConditionalGeneration", {kVllm, kSglang, kTrtllm}},
  };
  return kClasses;
}

}  // namespace

void check_model_class(const std::string& model_type, const Json& config, BreachList& breaches) {
  const auto known = std::ranges::find(model_classes(), model_type, &ModelClass::model_type);
  if (known == model_classes().end()) {
    breaches.add(kAllEngines, "",
                 fmt::format("no model class is known for model_type \"{}\"", printable(model_type)));
    return;
  }
  std::vector<Engine> lacking;
  for (const Engine engine : kAllEngines)
    if (std::ranges::find(known->engines, engine) == known->engines.end()) lacking.push_back(engine);
  if (!lacking.empty())
    breaches.add(lacking, "", fmt::format("no model class is known for model_type \"{}\"", model_type));
  const Json architectures = at_or_null(config, "architectures");
  const std::vector<std::string> names = strings_of(architectures);
  if (std::ranges::find(names, known->architecture) == names.end()) {
    breaches.add(
        known->engines, "",
        fmt::format("architectures must name {}; found {}", known->architecture, found_text(architectures)));
  }
}

void check_modelopt_documents(const std::string& model_type, const Json& config, const Json& hf_quant_config,
                              BreachList& breaches) {
  check_model_class(model_type, config, breaches);
  const Json quantization = at_or_null(config, "quantization_config");
  if (!quantization.is_object()) {
    breaches.add(kAllEngines, "",
                 "config.json must have a quantization_config; found " + found_text(quantization));
    return;
  }
  check_keys(quantization, breaches);
  constexpr Engine kReaders[] = {kVllm, kSglang}, kFileReader[] = {kTrtllm};
  check_algorithm(quantization, "quantization_config", kReaders, breaches);
  const Json hf_quantization = at_or_null(hf_quant_config, "quantization");
  if (!hf_quantization.is_object()) {
    breaches.add(kFileReader, "", "hf_quant_config.json must be there, with the object 'quantization'");
    return;
  }
  check_algorithm(hf_quantization, "hf_quant_config.json quantization", kFileReader, breaches);
  check_agreement(quantization, hf_quantization, breaches);
}

// ---- what an engine builds ----

ModelOptReading::ModelOptReading(Engine engine, std::string model_type, const Json& config,
                                 const Json& hf_quant_config)
    : engine_(engine), model_type_(std::move(model_type)) {
  const bool reads_file = engine == kTrtllm && hf_quant_config.is_object();
  const Json quantization =
      reads_file ? at_or_null(hf_quant_config, "quantization") : at_or_null(config, "quantization_config");
  excluded_ = strings_of(at_or_null(quantization, reads_file ? "exclude_modules" : "ignore"));
  algorithm_ = text_of(at_or_null(quantization, "quant_algo"));
  if (algorithm_ != kMixed) return;
  algorithm_.clear();
  const Json layers = at_or_null(quantization, "quantized_layers");
  if (!layers.is_object()) return;
  for (const auto& [name, layer] : layers.items()) layers_[name] = text_of(at_or_null(layer, "quant_algo"));
}

// vLLM's MiniMax-M2 calls its block of experts otherwise than the checkpoint.
// (vllm/model_executor/models/minimax_m2.py:MiniMaxM2DecoderLayer)
std::string ModelOptReading::prefix_of(const EngineUnit& unit) const {
  constexpr std::string_view kBlock = ".block_sparse_moe.";
  std::string prefix = unit.prefix;
  if (engine_ == kVllm && model_type_ == "minimax_m2" && unit.kind == EngineUnit::Kind::kExperts)
    prefix.replace(prefix.find(kBlock), kBlock.size(), ".mlp.");
  return prefix;
}

// By the unit's own name, by those of its parts, by a name below it; by any sibling's for vLLM's experts.
std::string ModelOptReading::listed_algorithm(const EngineUnit& unit, const std::string& prefix,
                                              std::string& conflict) const {
  if (const auto own = layers_.find(prefix); own != layers_.end()) return own->second;
  if (unit.kind == EngineUnit::Kind::kFused) {
    std::set<std::string> algorithms;
    for (const WeightModule* module : unit.modules)
      if (const auto part = layers_.find(module->name); part != layers_.end())
        algorithms.insert(part->second);
    if (algorithms.size() > 1) conflict = "its parts have different algorithms in quantized_layers";
    return algorithms.empty() ? std::string(kPlain) : *algorithms.begin();
  }
  const auto below = [&](const std::string& parent) {
    const auto found = layers_.lower_bound(parent);
    return found != layers_.end() && found->first.starts_with(parent) ? found->second : std::string(kPlain);
  };
  const std::string found = below(prefix + ".");
  if (found != kPlain || engine_ != kVllm || unit.kind != EngineUnit::Kind::kExperts) return found;
  return below(prefix.substr(0, prefix.rfind('.') + 1));
}

// vLLM builds the indexer's keys and weights as one layer that is never quantized.
// (vllm/model_executor/models/deepseek_v2.py:Indexer)
bool ModelOptReading::is_never_quantized(const EngineUnit& unit) const {
  return engine_ == kVllm && std::ranges::any_of(unit.modules, [](const WeightModule* module) {
           return module->id.role == Role::kIndexK || module->id.role == Role::kIndexWeights;
         });
}

std::string ModelOptReading::algorithm_of(const EngineUnit& unit, std::string& conflict) const {
  if (is_never_quantized(unit)) return std::string(kPlain);
  const std::string prefix = prefix_of(unit);
  const Exclusion exclusion = exclusion_of(engine_, unit, prefix, excluded_);
  if (exclusion == Exclusion::kParts) conflict = "some of its parts are excluded, some are not";
  if (exclusion != Exclusion::kNone) return std::string(kPlain);
  return algorithm_.empty() ? listed_algorithm(unit, prefix, conflict) : algorithm_;
}

}  // namespace nibblecast
