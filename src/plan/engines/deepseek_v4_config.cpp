// The rules of DeepSeek-V4's documents.
#include <fmt/format.h>

#include <algorithm>

#include "plan/engines/breach_list.h"
#include "plan/engines/deepseek_v4_rules.h"
#include "plan/glob.h"

namespace nibblecast {
namespace {

using enum Engine;

// One value that engines demand of quantization_config.
struct ConfigRule {
  const char* key;
  Json value;
  std::vector<Engine> engines;
  bool of_nvfp4_experts = false;
};

// Compared as values, so that 16 and 16.0 are the same, as they are to Python.
const std::vector<ConfigRule>& config_rules() {
  static const std::vector<ConfigRule> rules = {
      {"quant_method", "fp8", {kVllm, kSglang, kTrtllm}},
      {"activation_scheme", "dynamic", {kVllm, kSglang}},
      {"weight_block_size", {128, 128}, {kVllm, kSglang, kTrtllm}},
      {"moe_quant_algo", "NVFP4", {kVllm, kSglang}, true},
      {"quant_algo", "MIXED_PRECISION", {kSglang}, true},
      {"group_size", 16, {kSglang}, true},
  };
  return rules;
}

void check_model(const V4Documents& documents, V4Breaches& breaches) {
  const Json model_type = at_or_null(documents.config, "model_type");
  if (model_type != "deepseek_v4") {
    breaches.add({kVllm, kSglang, kTrtllm},
                 fmt::format("model_type must be \"deepseek_v4\"; found {}", found_text(model_type)));
  }
  const Json architectures = at_or_null(documents.config, "architectures");
  if (!architectures.is_array() ||
      std::ranges::find(architectures, "DeepseekV4ForCausalLM") == architectures.end()) {
    breaches.add({kSglang, kTrtllm}, fmt::format("architectures must name DeepseekV4ForCausalLM; found {}",
                                                 found_text(architectures)));
  }
  const Json expert_dtype = at_or_null(documents.config, "expert_dtype");
  if (documents.has_nvfp4 && !expert_dtype.is_null() && expert_dtype != "fp4") {
    breaches.add({kVllm},
                 fmt::format("expert_dtype must be \"fp4\" or absent; found {}", found_text(expert_dtype)));
  }
}

// SGLang reads these by the release's names alone; a config.json that transformers wrote has others
// instead.
void check_release_keys(const Json& config, V4Breaches& breaches) {
  constexpr const char* kRemedy = "add the release's key to config.json (both spellings may stand there)";
  const Json layers = at_or_null(config, "num_hidden_layers");
  const Json ratios = at_or_null(config, "compress_ratios");
  if (!ratios.is_array() || (layers.is_number() && layers > ratios.size())) {
    breaches.add(
        {kSglang},
        fmt::format("compress_ratios must be a list with an entry for each layer; found {}",
                    ratios.is_array() ? std::to_string(ratios.size()) + " entries" : found_text(ratios)),
        kRemedy);
  }
  const Json theta = at_or_null(config, "compress_rope_theta");
  if (!theta.is_number()) {
    breaches.add({kSglang}, fmt::format("compress_rope_theta must be a number; found {}", found_text(theta)),
                 kRemedy);
  }
}

void check_quantization_config(const V4Documents& documents, V4Breaches& breaches) {
  for (const ConfigRule& rule : config_rules()) {
    const Json found = at_or_null(documents.quantization_config, rule.key);
    if (found == rule.value || (rule.of_nvfp4_experts && !documents.has_nvfp4)) continue;
    breaches.add(rule.engines, fmt::format("quantization_config.{} must be {}; found {}", rule.key,
                                           rule.value.dump(), found_text(found)));
  }
  if (!at_or_null(documents.quantization_config, "quantization").is_null()) {
    breaches.add({kVllm, kTrtllm}, "quantization_config must not hold a nested `quantization`");
  }
  const Json kv_cache = at_or_null(documents.quantization_config, "kv_cache_quant_algo");
  if (!kv_cache.is_null()) {
    breaches.add({kSglang}, fmt::format("quantization_config.kv_cache_quant_algo must be null; found {}",
                                        found_text(kv_cache)));
  }
}

// Draft experts stay MXFP4: vLLM reads them so only where an `ignore` pattern says it; a pattern that hits
// main layers turns those to MXFP4.
class IgnoreRules {
 public:
  IgnoreRules(const Json& quantization_config, const V4Tensors& tensors, V4Breaches& breaches)
      : ignore_(at_or_null(quantization_config, "ignore")), tensors_(tensors), breaches_(breaches) {}

  void check() {
    if (!ignore_.is_null() && !is_list())
      breaches_.add({kVllm, kSglang}, "quantization_config.ignore must be a list of patterns");
    for (const auto& [name, draft] : tensors_.drafts) check_draft(name, draft);
    for (const auto& [layer, experts] : tensors_.layers) check_layer(layer);
  }

 private:
  bool is_list() const {
    return ignore_.is_array() &&
           std::ranges::all_of(ignore_, [](const Json& each) { return each.is_string(); });
  }

  bool ignored(const std::string& module) const {
    return is_list() && std::ranges::any_of(ignore_, [&](const Json& pattern) {
             return glob_match(pattern.get_ref<const std::string&>(), module);
           });
  }

  void check_draft(const std::string& name, const DraftExperts& draft) {
    const bool is_ignored = ignored(name);
    if (!draft.is_nvfp4 && !is_ignored)
      breaches_.add({kVllm}, fmt::format("quantization_config.ignore must match {}", name));
    if (!draft.is_mxfp4 && is_ignored)
      breaches_.add({kVllm}, fmt::format("{} is ignored, so it must be MXFP4", name));
    if (!draft.is_mxfp4) breaches_.add({kSglang}, fmt::format("{} must be MXFP4", name));
  }

  void check_layer(uint64_t layer) {
    const std::string official = fmt::format("layers.{}.ffn.experts", layer);
    const std::string mapped = fmt::format("model.layers.{}.mlp.experts", layer);
    if (tensors_.has_format(layer, ExpertsFormat::kRelease)) return check_kept_layer(official);
    const auto refuse = [&](Engine engine, const std::string& module) {
      breaches_.add({engine}, fmt::format("quantization_config.ignore must not match {}", module));
    };
    if (ignored(official)) refuse(kVllm, official);
    if (ignored(official) || ignored(mapped)) refuse(kSglang, ignored(mapped) ? mapped : official);
  }

  // A main layer whose experts are not NVFP4 where others are: vLLM asks `ignore`, SGLang and TensorRT-LLM
  // know one format for all layers.
  void check_kept_layer(const std::string& experts) {
    if (!ignored(experts))
      breaches_.add({kVllm},
                    fmt::format("quantization_config.ignore must match {}, which is not NVFP4", experts));
    breaches_.add({kSglang, kTrtllm}, fmt::format("{} must be NVFP4 as other layers' experts are", experts));
  }

  const Json ignore_;
  const V4Tensors& tensors_;
  V4Breaches& breaches_;
};

// By the words that stay when engines rename modules, or as a part of a name here.
bool names_quantized_module(const std::string& entry, const V4Tensors& tensors) {
  if (entry.find("attn") != std::string::npos || entry.find("experts") != std::string::npos) return true;
  return std::ranges::any_of(tensors.fp8_modules, [&](const std::string& module) {
    return module.find(entry) != std::string::npos;
  });
}

// Both lists take modules out of FP8: an attention left out would be read as BF16.
void check_fp8_exclusions(const Json& quantization_config, const V4Tensors& tensors, V4Breaches& breaches) {
  for (const char* key : {"modules_to_not_convert", "ignored_layers"}) {
    const Json list = at_or_null(quantization_config, key);
    if (!list.is_array()) continue;
    for (const Json& entry : list) {
      if (!entry.is_string() || tensors.plain_modules.contains(entry.get_ref<const std::string&>()) ||
          !names_quantized_module(entry.get_ref<const std::string&>(), tensors))
        continue;
      breaches.add({kVllm, kSglang, kTrtllm},
                   fmt::format("quantization_config.{} must not name quantized modules; found {}", key,
                               found_text(entry)));
    }
  }
}

// hf_quant_config.json where there is one, else quantization_config in its flat form.
void check_trtllm_manifest(const V4Documents& documents, V4Breaches& breaches) {
  const bool flat = documents.hf_quant_config.is_null();
  const Json manifest =
      flat ? documents.quantization_config : at_or_null(documents.hf_quant_config, "quantization");
  const char* const where = flat ? "quantization_config" : "hf_quant_config.json quantization";
  const Json quant_algo = at_or_null(manifest, "quant_algo"), group_size = at_or_null(manifest, "group_size");
  if (quant_algo != "MIXED_PRECISION") {
    breaches.add({kTrtllm}, fmt::format("{}.quant_algo must be \"MIXED_PRECISION\"; found {}", where,
                                        found_text(quant_algo)));
  }
  if (group_size != 16) {
    breaches.add({kTrtllm}, fmt::format("{}.group_size must be 16; found {}", where, found_text(group_size)));
  }
  if (!at_or_null(manifest, "quantized_layers").is_object()) {
    breaches.add({kTrtllm}, fmt::format("{}.quantized_layers must be an object", where));
  }
  if (flat && at_or_null(at_or_null(documents.quantization_config, "producer"), "name") != "modelopt") {
    breaches.add({kTrtllm},
                 "hf_quant_config.json must be present: without it, only producer modelopt is recognised");
  }
}

}  // namespace

void check_v4_model(const V4Documents& documents, V4Breaches& breaches) {
  check_model(documents, breaches);
  check_release_keys(documents.config, breaches);
}

void check_v4_quantization(const V4Documents& documents, const V4Tensors& tensors, V4Breaches& breaches) {
  check_quantization_config(documents, breaches);
  if (documents.has_nvfp4) IgnoreRules(documents.quantization_config, tensors, breaches).check();
  check_fp8_exclusions(documents.quantization_config, tensors, breaches);
  if (documents.has_nvfp4) check_trtllm_manifest(documents, breaches);
}

}  // namespace nibblecast
