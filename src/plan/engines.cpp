#include "plan/engines.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "checkpoint/printable.h"
#include "model/families/deepseek_v4/tensors.h"
#include "plan/engines/breach_list.h"
#include "plan/engines/modelopt.h"
#include "plan/engines/deepseek_v4_formats.h"
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

class Checker {
 public:
  Checker(const Json& config, const Json& hf_quant_config, std::span<const Tensor> tensors)
      : config_(config),
        hf_quant_config_(hf_quant_config),
        quant_(at_or_null(config, "quantization_config")),
        formats_(experts_formats(tensors)),
        has_nvfp4_(formats_.empty() || has_any({ExpertsFormat::kNvfp4, ExpertsFormat::kWeightOnly})),
        breaches_(check_formats(tensors, formats_)) {
    for (const Tensor& tensor : tensors) collect(tensor);
  }

  std::vector<Breach> check() {
    check_model();
    check_release_keys();
    check_quantization_config();
    if (has_nvfp4_) check_ignore();
    check_fp8_exclusions();
    if (has_nvfp4_) check_trtllm_manifest();
    check_expert_counts();
    for (const auto& [module, parts] : experts_) {
      if (has_format(parse_expert_name(module)->layer, ExpertsFormat::kNvfp4)) check_expert(module, parts);
    }
    return std::move(breaches_);
  }

 private:
  // The tensors of one projection of a routed expert.
  struct Parts {
    const Tensor* weight = nullptr;
    const Tensor* weight_scale = nullptr;
    const Tensor* weight_scale_2 = nullptr;
    const Tensor* input_scale = nullptr;
    std::vector<const Tensor*> others;
  };

  // How the experts of a draft layer are stored; neither: FP8, or whatever else.
  struct Draft {
    bool is_nvfp4 = false, is_mxfp4 = true;
  };

  void collect(const Tensor& tensor) {
    const size_t dot = tensor.name.rfind('.');
    if (dot == std::string::npos) return;
    const std::string module = tensor.name.substr(0, dot);
    const std::string kind = tensor.name.substr(dot + 1);
    const size_t experts = module.find(".ffn.experts.");
    if (tensor.name.starts_with("mtp.") && experts != std::string::npos) {
      Draft& draft = drafts_[module.substr(0, experts) + ".ffn.experts"];
      draft.is_nvfp4 |= kind == "weight_scale";
      draft.is_mxfp4 &= kind != "weight" || tensor.dtype == Dtype::kI8;
      draft.is_mxfp4 &= kind != "scale" || tensor.dtype == Dtype::kF8E8M0;
      return;
    }
    if (tensor.dtype == Dtype::kF8E4M3 && kind == "weight") fp8_modules_.insert(module);
    if (kind == "weight" && (tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF32))
      plain_modules_.insert(module);
    const std::optional<ExpertName> name = parse_expert_name(module);
    if (!name) return;
    layers_[name->layer].insert(name->expert);
    Parts& parts = experts_[module];
    if (kind == "weight")
      parts.weight = &tensor;
    else if (kind == "weight_scale")
      parts.weight_scale = &tensor;
    else if (kind == "weight_scale_2")
      parts.weight_scale_2 = &tensor;
    else if (kind == "input_scale")
      parts.input_scale = &tensor;
    else
      parts.others.push_back(&tensor);
  }

  bool has_format(uint64_t layer, ExpertsFormat format) const {
    const auto found = formats_.find(layer);
    return found != formats_.end() && found->second == format;
  }

  bool has_any(std::initializer_list<ExpertsFormat> wanted) const {
    return std::ranges::any_of(
        formats_, [&](const auto& layer) { return std::ranges::find(wanted, layer.second) != wanted.end(); });
  }

  void breach(const std::vector<Engine>& engines, const std::string& rule, const std::string& remedy = "") {
    for (const Engine engine : engines) breaches_.push_back({engine, rule, remedy});
  }

  void check_model() {
    const Json model_type = at_or_null(config_, "model_type");
    if (model_type != "deepseek_v4") {
      breach({kVllm, kSglang, kTrtllm},
             fmt::format("model_type must be \"deepseek_v4\"; found {}", found_text(model_type)));
    }
    const Json architectures = at_or_null(config_, "architectures");
    if (!architectures.is_array() ||
        std::ranges::find(architectures, "DeepseekV4ForCausalLM") == architectures.end()) {
      breach({kSglang, kTrtllm}, fmt::format("architectures must name DeepseekV4ForCausalLM; found {}",
                                             found_text(architectures)));
    }
    const Json expert_dtype = at_or_null(config_, "expert_dtype");
    if (has_nvfp4_ && !expert_dtype.is_null() && expert_dtype != "fp4") {
      breach({kVllm},
             fmt::format("expert_dtype must be \"fp4\" or absent; found {}", found_text(expert_dtype)));
    }
  }

  // SGLang reads these by the release's names alone; a config.json that transformers wrote has others
  // instead.
  void check_release_keys() {
    constexpr const char* kRemedy = "add the release's key to config.json (both spellings may stand there)";
    const Json layers = at_or_null(config_, "num_hidden_layers");
    const Json ratios = at_or_null(config_, "compress_ratios");
    if (!ratios.is_array() || (layers.is_number() && layers > ratios.size())) {
      breach({kSglang},
             fmt::format("compress_ratios must be a list with an entry for each layer; found {}",
                         ratios.is_array() ? std::to_string(ratios.size()) + " entries" : found_text(ratios)),
             kRemedy);
    }
    const Json theta = at_or_null(config_, "compress_rope_theta");
    if (!theta.is_number()) {
      breach({kSglang}, fmt::format("compress_rope_theta must be a number; found {}", found_text(theta)),
             kRemedy);
    }
  }

  void check_quantization_config() {
    for (const ConfigRule& rule : config_rules()) {
      const Json found = at_or_null(quant_, rule.key);
      if (found == rule.value || (rule.of_nvfp4_experts && !has_nvfp4_)) continue;
      breach(rule.engines, fmt::format("quantization_config.{} must be {}; found {}", rule.key,
                                       rule.value.dump(), found_text(found)));
    }
    if (!at_or_null(quant_, "quantization").is_null()) {
      breach({kVllm, kTrtllm}, "quantization_config must not hold a nested `quantization`");
    }
    const Json kv_cache = at_or_null(quant_, "kv_cache_quant_algo");
    if (!kv_cache.is_null()) {
      breach({kSglang}, fmt::format("quantization_config.kv_cache_quant_algo must be null; found {}",
                                    found_text(kv_cache)));
    }
  }

  // Draft experts stay MXFP4: vLLM reads them so only where an `ignore` pattern says it; a pattern that hits
  // main layers turns those to MXFP4.
  void check_ignore() {
    const Json ignore = at_or_null(quant_, "ignore");
    const bool is_list =
        ignore.is_array() && std::ranges::all_of(ignore, [](const Json& p) { return p.is_string(); });
    if (!ignore.is_null() && !is_list) {
      breach({kVllm, kSglang}, "quantization_config.ignore must be a list of patterns");
    }
    const auto ignored = [&](const std::string& module) {
      return is_list && std::ranges::any_of(ignore, [&](const Json& pattern) {
               return glob_match(pattern.get_ref<const std::string&>(), module);
             });
    };
    for (const auto& [name, draft] : drafts_) check_draft(name, draft, ignored(name));
    for (const auto& [layer, experts] : layers_) {
      const std::string official = fmt::format("layers.{}.ffn.experts", layer);
      const std::string mapped = fmt::format("model.layers.{}.mlp.experts", layer);
      const auto refuse = [&](Engine engine, const std::string& module) {
        breach({engine}, fmt::format("quantization_config.ignore must not match {}", module));
      };
      if (has_format(layer, ExpertsFormat::kRelease)) {
        check_kept_layer(official, ignored(official));
        continue;
      }
      if (ignored(official)) refuse(kVllm, official);
      if (ignored(official) || ignored(mapped)) refuse(kSglang, ignored(mapped) ? mapped : official);
    }
  }

  // A main layer whose experts are not NVFP4 where others are: vLLM asks `ignore`, SGLang and TensorRT-LLM
  // know one format for all layers.
  void check_kept_layer(const std::string& experts, bool is_ignored) {
    if (!is_ignored)
      breach({kVllm}, fmt::format("quantization_config.ignore must match {}, which is not NVFP4", experts));
    breach({kSglang, kTrtllm}, fmt::format("{} must be NVFP4 as other layers' experts are", experts));
  }

  void check_draft(const std::string& name, const Draft& draft, bool is_ignored) {
    if (!draft.is_nvfp4 && !is_ignored)
      breach({kVllm}, fmt::format("quantization_config.ignore must match {}", name));
    if (!draft.is_mxfp4 && is_ignored)
      breach({kVllm}, fmt::format("{} is ignored, so it must be MXFP4", name));
    if (!draft.is_mxfp4) breach({kSglang}, fmt::format("{} must be MXFP4", name));
  }

  // Both lists take modules out of FP8: an attention left out would be read as BF16.
  void check_fp8_exclusions() {
    for (const char* key : {"modules_to_not_convert", "ignored_layers"}) {
      const Json list = at_or_null(quant_, key);
      if (!list.is_array()) continue;
      for (const Json& entry : list) {
        if (!entry.is_string() || plain_modules_.contains(entry.get_ref<const std::string&>()) ||
            !names_quantized_module(entry.get_ref<const std::string&>()))
          continue;
        breach({kVllm, kSglang, kTrtllm},
               fmt::format("quantization_config.{} must not name quantized modules; found {}", key,
                           found_text(entry)));
      }
    }
  }

  // By the words that stay when engines rename modules, or as a part of a name here.
  bool names_quantized_module(const std::string& entry) const {
    if (entry.find("attn") != std::string::npos || entry.find("experts") != std::string::npos) return true;
    return std::ranges::any_of(
        fp8_modules_, [&](const std::string& module) { return module.find(entry) != std::string::npos; });
  }

  // hf_quant_config.json where there is one, else quantization_config in its flat form.
  void check_trtllm_manifest() {
    const bool flat = hf_quant_config_.is_null();
    const Json manifest = flat ? quant_ : at_or_null(hf_quant_config_, "quantization");
    const char* const where = flat ? "quantization_config" : "hf_quant_config.json quantization";
    const Json quant_algo = at_or_null(manifest, "quant_algo"),
               group_size = at_or_null(manifest, "group_size");
    if (quant_algo != "MIXED_PRECISION") {
      breach({kTrtllm}, fmt::format("{}.quant_algo must be \"MIXED_PRECISION\"; found {}", where,
                                    found_text(quant_algo)));
    }
    if (group_size != 16) {
      breach({kTrtllm}, fmt::format("{}.group_size must be 16; found {}", where, found_text(group_size)));
    }
    if (!at_or_null(manifest, "quantized_layers").is_object()) {
      breach({kTrtllm}, fmt::format("{}.quantized_layers must be an object", where));
    }
    if (flat && at_or_null(at_or_null(quant_, "producer"), "name") != "modelopt") {
      breach({kTrtllm},
             "hf_quant_config.json must be present: without it, only producer modelopt is recognised");
    }
  }

  // vLLM and SGLang do not notice an expert that is not there: its parameters stay as they were allocated.
  void check_expert_counts() {
    const Json layers = at_or_null(config_, "num_hidden_layers");
    const Json release = at_or_null(config_, "n_routed_experts"),
               transformers = at_or_null(config_, "num_local_experts");
    const Json& experts = transformers.is_null() ? release : transformers;
    if (layers != layers_.size()) {
      breach({kVllm, kSglang, kTrtllm},
             fmt::format("num_hidden_layers must be the number of layers with experts, {}; found {}",
                         layers_.size(), found_text(layers)));
    }
    for (const auto& [layer, found] : layers_) {
      if (experts == found.size()) continue;
      breach({kVllm, kSglang, kTrtllm},
             fmt::format("layers.{}.ffn.experts must hold the config's {} experts; found {}", layer,
                         found_text(experts), found.size()));
    }
    for (const auto& [layer, found] : layers_) {
      for (const uint64_t expert : found) {
        for (int projection = 1; projection <= 3; ++projection)
          experts_[expert_module(layer, expert, projection)];
      }
    }
  }

  void check_expert(const std::string& module, const Parts& parts) {
    // The storage is decisive to TensorRT-LLM alone: it takes I8 for MXFP4.
    if (present(module, "weight", parts.weight)) {
      const Dtype dtype = parts.weight->dtype;
      if (dtype == Dtype::kI8)
        breach({kTrtllm}, fmt::format("{}.weight must be U8; found I8", module));
      else
        check_dtype(*parts.weight, Dtype::kU8);
    }
    if (present(module, "weight_scale", parts.weight_scale)) {
      check_dtype(*parts.weight_scale, Dtype::kF8E4M3);
      if (parts.weight != nullptr) check_scale_shape(module, parts);
    }
    check_scalar(module, "weight_scale_2", parts.weight_scale_2);
    check_scalar(module, "input_scale", parts.input_scale);
    for (const Tensor* other : parts.others) {
      const bool is_scale = other->name.ends_with(".scale");
      breach({kVllm}, fmt::format("{} must be absent: {}", printable(other->name),
                                  is_scale ? "it overwrites half of weight_scale" : "no such parameter"));
      if (is_scale)
        breach({kTrtllm}, fmt::format("{} must be absent: it clashes with weight_scale", other->name));
    }
  }

  bool present(const std::string& module, const char* kind, const Tensor* tensor) {
    if (tensor == nullptr)
      breach({kVllm, kSglang, kTrtllm}, fmt::format("{}.{} must be present", module, kind));
    return tensor != nullptr;
  }

  // Engines convert other dtypes by value, not by bits.
  void check_dtype(const Tensor& tensor, Dtype dtype) {
    if (tensor.dtype == dtype) return;
    breach({kVllm, kSglang, kTrtllm},
           fmt::format("{} must be {}; found {}", tensor.name, dtype_name(dtype), dtype_name(tensor.dtype)));
  }

  void check_scalar(const std::string& module, const char* kind, const Tensor* tensor) {
    if (!present(module, kind, tensor)) return;
    check_dtype(*tensor, Dtype::kF32);
    if (element_count(tensor->shape) == 1) return;
    breach({kVllm, kSglang, kTrtllm},
           fmt::format("{} must hold one value; found shape {}", tensor->name, shape_text(tensor->shape)));
  }

  void check_scale_shape(const std::string& module, const Parts& parts) {
    const Shape& weight = parts.weight->shape;
    const Shape& scale = parts.weight_scale->shape;
    // Two elements a byte, 16 a scale.
    if (weight.size() == 2 && weight[1] % 8 == 0 && scale == Shape{weight[0], weight[1] / 8}) return;
    breach({kVllm, kSglang, kTrtllm},
           fmt::format("{}.weight_scale must be [out, in/16] of weight {}; found {}", module,
                       shape_text(weight), shape_text(scale)));
  }

  const Json& config_;
  const Json& hf_quant_config_;
  const Json quant_;
  const std::map<uint64_t, ExpertsFormat> formats_;
  const bool has_nvfp4_;                           // or nothing says what the experts are
  std::map<std::string, Parts> experts_;           // by module
  std::map<uint64_t, std::set<uint64_t>> layers_;  // experts found in each main layer
  std::map<std::string, Draft> drafts_;            // by "mtp.0.ffn.experts"
  std::set<std::string> fp8_modules_, plain_modules_;
  std::vector<Breach> breaches_;
};

}  // namespace

std::string_view engine_release(Engine engine) {
  switch (engine) {
    case kVllm:
      return "vLLM 0.33.0";
    case kSglang:
      return "SGLang 0.5.23";
    case kTrtllm:
      return "TensorRT-LLM main of November 2026";
  }
  return "?";
}

std::vector<Breach> check_engine_contracts(const Json& config, const Json& hf_quant_config,
                                           std::span<const Tensor> tensors) {
  return Checker(config, hf_quant_config, tensors).check();
}

std::vector<Breach> check_contracts(const Model& model, const Json& config, const Json& hf_quant_config,
                                    std::span<const Tensor> tensors) {
  return std::holds_alternative<DeepseekV4Config>(model.spec)
             ? check_engine_contracts(config, hf_quant_config, tensors)
             : check_modelopt_contracts(model, config, hf_quant_config, tensors);
}

}  // namespace nibblecast
