#include "plan/engines.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <map>
#include <optional>
#include <string_view>

#include "model/deepseek_v4_tensors.h"

namespace nibblecast {
namespace {

using enum Engine;

Json at_or_null(const Json& object, const std::string& key) {
  return object.is_object() && object.contains(key) ? object.at(key) : Json();
}

// One value that engines demand of quantization_config.
struct ConfigRule {
  std::string_view key;
  Json value;  // null: must be present, whatever it is
  std::vector<Engine> engines;
};

const std::vector<ConfigRule>& config_rules() {
  static const std::vector<ConfigRule> rules = {
      {"quant_method", "fp8", {kVllm, kSglang, kTrtllm}},
      {"activation_scheme", nullptr, {kVllm, kSglang}},
      {"weight_block_size", {128, 128}, {kVllm, kSglang, kTrtllm}},
      {"moe_quant_algo", "NVFP4", {kVllm, kSglang}},
      {"quant_algo", "MIXED_PRECISION", {kSglang, kTrtllm}},
      {"group_size", 16, {kSglang}},
      {"quantized_layers", nullptr, {kTrtllm}},
  };
  return rules;
}

class Checker {
 public:
  Checker(const Json& config, const Json& hf_quant_config, std::span<const Tensor> tensors)
      : config_(config), hf_quant_config_(hf_quant_config), quant_(at_or_null(config, "quantization_config")) {
    for (const Tensor& tensor : tensors) collect(tensor);
  }

  std::vector<Breach> check() {
    check_config();
    check_ignore();
    check_hf_quant_config();
    for (const auto& [module, parts] : experts_) check_expert(module, parts);
    return std::move(breaches_);
  }

 private:
  struct Parts {
    const Tensor* weight = nullptr;
    const Tensor* weight_scale = nullptr;
    const Tensor* weight_scale_2 = nullptr;
    const Tensor* input_scale = nullptr;
    const Tensor* other = nullptr;
  };

  void collect(const Tensor& tensor) {
    const size_t dot = tensor.name.rfind('.');
    if (dot == std::string::npos) return;
    const std::string module = tensor.name.substr(0, dot);
    if (tensor.name.starts_with("mtp.")) {
      const size_t end = tensor.name.find('.', 4);
      if (tensor.name.find(".ffn.experts.") != std::string::npos) {
        drafts_.insert(tensor.name.substr(0, end) + ".ffn.experts");
      }
      return;
    }
    const std::optional<ExpertName> name = parse_expert_name(module);
    if (!name) return;
    layers_.insert(name->layer);
    Parts& parts = experts_[module];
    const std::string_view kind = std::string_view(tensor.name).substr(dot + 1);
    (kind == "weight"           ? parts.weight
     : kind == "weight_scale"   ? parts.weight_scale
     : kind == "weight_scale_2" ? parts.weight_scale_2
     : kind == "input_scale"    ? parts.input_scale
                                : parts.other) = &tensor;
  }

  void breach(std::initializer_list<Engine> engines, const std::string& rule) {
    for (const Engine engine : engines) breaches_.push_back({engine, rule});
  }

  void check_config() {
    if (at_or_null(config_, "model_type") != "deepseek_v4") {
      breach({kVllm, kSglang, kTrtllm}, "config.json model_type must be \"deepseek_v4\"");
    }
    const Json expert_dtype = at_or_null(config_, "expert_dtype");
    if (!expert_dtype.is_null() && expert_dtype != "fp4") {
      breach({kVllm}, fmt::format("config.json expert_dtype must be \"fp4\" or absent; found {}", expert_dtype.dump()));
    }
    for (const ConfigRule& rule : config_rules()) {
      const Json found = at_or_null(quant_, std::string(rule.key));
      if (rule.value.is_null() ? !found.is_null() : found == rule.value) continue;
      for (const Engine engine : rule.engines) {
        breach({engine}, fmt::format("quantization_config.{} must be {}; found {}", rule.key,
                                     rule.value.is_null() ? "present" : rule.value.dump(), found.dump()));
      }
    }
    if (!at_or_null(quant_, "quantization").is_null()) {
      breach({kVllm, kTrtllm}, "quantization_config must not hold a nested `quantization`");
    }
    if (!at_or_null(quant_, "kv_cache_quant_algo").is_null()) {
      breach({kSglang}, "quantization_config.kv_cache_quant_algo must be null: V4 chooses its own KV format");
    }
  }

  // Draft experts stay MXFP4: vLLM reads them so only where an `ignore` pattern says it; a pattern that hits main
  // layers turns those to MXFP4.
  void check_ignore() {
    const Json ignore = at_or_null(quant_, "ignore");
    const auto ignored = [&](const std::string& module) {
      if (!ignore.is_array()) return false;
      for (const Json& pattern : ignore) {
        if (pattern.is_string() && fnmatch(pattern.get_ref<const std::string&>().c_str(), module.c_str(), 0) == 0) return true;
      }
      return false;
    };
    for (const std::string& draft : drafts_) {
      if (!ignored(draft)) breach({kVllm}, fmt::format("quantization_config.ignore must match {}", draft));
    }
    for (const uint64_t layer : layers_) {
      for (const std::string& module :
           {fmt::format("layers.{}.ffn.experts", layer), fmt::format("model.layers.{}.mlp.experts", layer)}) {
        if (ignored(module)) breach({kVllm, kSglang}, fmt::format("quantization_config.ignore must not match {}", module));
      }
    }
  }

  void check_hf_quant_config() {
    if (hf_quant_config_.is_null()) return;
    const Json quantization = at_or_null(hf_quant_config_, "quantization");
    if (at_or_null(quantization, "quant_algo") != "MIXED_PRECISION") {
      breach({kTrtllm}, "hf_quant_config.json quantization.quant_algo must be \"MIXED_PRECISION\"");
    }
    if (!at_or_null(quantization, "quantized_layers").is_object()) {
      breach({kTrtllm}, "hf_quant_config.json quantization.quantized_layers must be an object");
    }
  }

  void check_expert(const std::string& module, const Parts& parts) {
    const auto require = [&](const Tensor* tensor, std::string_view kind, Dtype dtype) {
      if (tensor == nullptr) {
        breach({kVllm, kSglang, kTrtllm}, fmt::format("{}.{} must be present", module, kind));
        return false;
      }
      if (tensor->dtype != dtype) {
        breach({kVllm, kSglang, kTrtllm}, fmt::format("{}.{} must be {}; found {}", module, kind, dtype_name(dtype),
                                                      dtype_name(tensor->dtype)));
      }
      return true;
    };
    const bool has_weight = require(parts.weight, "weight", Dtype::kU8);
    const bool has_scale = require(parts.weight_scale, "weight_scale", Dtype::kF8E4M3);
    if (has_weight && has_scale) check_scale_shape(module, parts);
    for (const auto& [tensor, kind] : {std::pair(parts.weight_scale_2, "weight_scale_2"),
                                       std::pair(parts.input_scale, "input_scale")}) {
      if (require(tensor, kind, Dtype::kF32) && *element_count(tensor->shape) != 1) {
        breach({kVllm, kSglang, kTrtllm},
               fmt::format("{}.{} must hold one value; found shape {}", module, kind, shape_text(tensor->shape)));
      }
    }
    if (parts.other != nullptr) {
      breach({kVllm, kTrtllm}, fmt::format("{} must be absent: it would overwrite or clash with weight_scale",
                                           parts.other->name));
    }
  }

  void check_scale_shape(const std::string& module, const Parts& parts) {
    const Shape& weight = parts.weight->shape;
    const Shape& scale = parts.weight_scale->shape;
    if (weight.size() == 2 && scale == Shape{weight[0], weight[1] * 2 / 16} && weight[1] % 8 == 0) return;
    breach({kVllm, kSglang, kTrtllm}, fmt::format("{}.weight_scale must be [out, in/16] of weight {}; found {}", module,
                                                  shape_text(weight), shape_text(scale)));
  }

  const Json& config_;
  const Json& hf_quant_config_;
  const Json quant_;
  std::map<std::string, Parts> experts_;
  std::set<std::string> drafts_;
  std::set<uint64_t> layers_;
  std::vector<Breach> breaches_;
};

}  // namespace

std::vector<Breach> check_engine_contracts(const Json& config, const Json& hf_quant_config,
                                           std::span<const Tensor> tensors) {
  return Checker(config, hf_quant_config, tensors).check();
}

}  // namespace nibblecast
