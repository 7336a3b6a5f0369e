#include "checkpoint/manifest.h"

#include <algorithm>
#include <set>
#include <vector>

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr int kGroupSize = 16;
constexpr const char* kQuantAlgo = "MIXED_PRECISION";
constexpr std::string_view kExperts = "ffn.experts";

Json producer(const std::string& version) { return {{"name", "nibblecast"}, {"version", version}}; }

// ModelOpt's name of a module's format; null for what its engines' code has no part in.
const char* quant_algo(const ManifestModule& module) {
  if (module.format == WeightFormat::kFp8) return "FP8";
  if (module.format != WeightFormat::kNvfp4) return nullptr;
  return module.quantize_input ? "NVFP4" : "W4A16_NVFP4";
}

bool is_quantized(const ManifestModule& module) { return quant_algo(module) != nullptr; }

// "layers.3.attn.wq_a" -> "attn.wq_a"; nothing for modules outside of layers.
std::string_view role(const ManifestModule& module) {
  const std::string_view name = module.name;
  if (!name.starts_with("layers.")) return {};
  return name.substr(std::min(name.find('.', std::string_view("layers.").size()), name.size() - 1) + 1);
}

bool is_experts(const ManifestModule& module) { return role(module) == kExperts; }

Json quantized_layers(const Manifest& manifest) {
  Json layers = Json::object();
  for (const ManifestModule& module : manifest.modules) {
    if (!is_quantized(module)) continue;
    Json& entry = layers[module.name] = {{"quant_algo", quant_algo(module)}};
    if (module.format == WeightFormat::kNvfp4) entry["group_size"] = kGroupSize;
  }
  return layers;
}

// The shortest beginning of `role` that no quantized role shares, as a pattern over all layers.
std::string kept_pattern(std::string_view role, const std::set<std::string_view>& quantized) {
  for (size_t dot = role.find('.'); dot != std::string_view::npos; dot = role.find('.', dot + 1)) {
    const std::string_view parent = role.substr(0, dot + 1);
    const auto shares = [&](std::string_view other) { return other.starts_with(parent); };
    if (std::ranges::none_of(quantized, shares)) return "*." + std::string(parent) + "*";
  }
  return "*." + std::string(role);
}

// What stays as the source has it. vLLM keeps the draft layers' experts MXFP4 only because `mtp.*` is here,
// and would take main layers for MXFP4 if a pattern matched "layers.N.ffn.experts".
Json excluded_modules(const Manifest& manifest) {
  std::set<std::string_view> quantized;
  for (const ManifestModule& module : manifest.modules) {
    if (is_quantized(module)) quantized.insert(role(module));
  }
  if (quantized == std::set{kExperts} &&
      std::ranges::none_of(manifest.modules, [](const auto& m) { return is_experts(m) && !is_quantized(m); }))
    return {"*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"};
  std::set<std::string> patterns = {"mtp.*"};
  for (const ManifestModule& module : manifest.modules) {
    if (is_quantized(module)) continue;
    const bool is_by_name = role(module).empty() || quantized.contains(role(module));
    patterns.insert(is_by_name ? module.name : kept_pattern(role(module), quantized));
  }
  return patterns;
}

Json config_group(const Json& layer) {
  const bool is_fp8 = layer.at("quant_algo").get_ref<const std::string&>() == "FP8";
  Json numbers = {{"dynamic", false}, {"num_bits", is_fp8 ? 8 : 4}, {"type", "float"}};
  if (!is_fp8) numbers["group_size"] = kGroupSize;
  Json group = {{"targets", Json::array({"Linear"})}, {"weights", numbers}};
  if (layer.at("quant_algo").get_ref<const std::string&>() != "W4A16_NVFP4")
    group["input_activations"] = numbers;
  return group;
}

// A group a format; each names its modules where there are several.
Json config_groups(const Json& layers) {
  std::vector<Json> formats;
  std::vector<Json> targets;
  for (const auto& [name, layer] : layers.items()) {
    const size_t at = static_cast<size_t>(std::ranges::find(formats, layer) - formats.begin());
    if (at == formats.size()) {
      formats.push_back(layer);
      targets.push_back(Json::array());
    }
    targets[at].push_back(name);
  }
  Json groups = Json::object();
  for (size_t at = 0; at < formats.size(); ++at) {
    Json& group = groups["group_" + std::to_string(at)] = config_group(formats[at]);
    if (formats.size() > 1) group["targets"] = targets[at];
  }
  return groups;
}

void require_object(const Json& value, const char* name) {
  if (value.is_object()) return;
  throw Error(ErrorKind::kBadInput, {.file = "config.json"}, std::string(name) + " is not an object",
              {.found = value.type_name()});
}

// The one quant_algo of the routed experts, in the layers where they have one.
const char* experts_algo(const Manifest& manifest) {
  for (const ManifestModule& module : manifest.modules) {
    if (is_experts(module) && is_quantized(module)) return quant_algo(module);
  }
  return nullptr;
}

// Written only where the source would otherwise speak of another format than the experts have.
void set_expert_dtype(Json& config, const Manifest& manifest) {
  std::set<WeightFormat> formats;
  for (const ManifestModule& module : manifest.modules) {
    if (is_experts(module)) formats.insert(module.format);
  }
  if (formats.contains(WeightFormat::kNvfp4)) {
    if (config.contains("expert_dtype")) config["expert_dtype"] = "fp4";
  } else if (formats == std::set{WeightFormat::kFp8Block} || formats == std::set{WeightFormat::kFp8}) {
    config["expert_dtype"] = "fp8";
  } else if (formats == std::set{WeightFormat::kBf16}) {
    config["expert_dtype"] = "bfloat16";
  } else if (formats == std::set{WeightFormat::kF32}) {
    config["expert_dtype"] = "float32";
  }
}

void add_not_converted(Json& quantization, const Manifest& manifest) {
  std::set<std::string> names;
  for (const ManifestModule& module : manifest.modules) {
    const bool is_plain = module.format == WeightFormat::kBf16 || module.format == WeightFormat::kF32;
    if (is_plain && module.is_fp8_in_source) names.insert(module.name);
  }
  if (names.empty()) return;
  Json& list = quantization["modules_to_not_convert"];
  if (!list.is_array()) list = Json::array();
  for (const std::string& name : names) list.push_back(name);
}

void set_modelopt_keys(Json& quantization, const Manifest& manifest, const Json& layers) {
  quantization.emplace("activation_scheme", "dynamic");
  quantization.emplace("weight_block_size", Json::array({128, 128}));
  quantization["config_groups"] = config_groups(layers);
  quantization["group_size"] = kGroupSize;
  quantization["ignore"] = excluded_modules(manifest);
  quantization["kv_cache_quant_algo"] = nullptr;
  if (const char* algo = experts_algo(manifest)) quantization["moe_quant_algo"] = algo;
  quantization["producer"] = producer(manifest.producer_version);
  quantization["quant_algo"] = kQuantAlgo;
  quantization["quant_method"] = "fp8";
  quantization["quantized_layers"] = layers;
}

// In the object and all that it nests: no key speaks of quantized weights. A part that says it is F32 stays
// F32, whatever `dtype` is.
void forget_quantization(Json& value, const std::string& dtype) {
  if (value.is_object()) {
    for (const char* key : {"quantization_config", "compression_config", "expert_dtype"}) value.erase(key);
    for (const char* key : {"dtype", "torch_dtype"}) {
      const auto stated = value.find(key);
      if (stated != value.end() && stated->is_string() && *stated != "float32") *stated = dtype;
    }
  }
  if (!value.is_structured()) return;
  for (Json& item : value) forget_quantization(item, dtype);
}

}  // namespace

Json output_config(const Json& source_config, const Manifest& manifest) {
  require_object(source_config, "the config");
  Json config = source_config;
  Json& quantization = config["quantization_config"];
  if (quantization.is_null()) quantization = Json::object();
  require_object(quantization, "'quantization_config'");
  for (const char* key : {"exclude_modules", "quantization", "kv_cache_scheme", "moe_quant_algo"})
    quantization.erase(key);
  const Json layers = quantized_layers(manifest);
  if (!layers.empty()) set_modelopt_keys(quantization, manifest, layers);
  if (manifest.fp8_kv_cache)
    quantization["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  add_not_converted(quantization, manifest);
  set_expert_dtype(config, manifest);
  return config;
}

Json output_hf_quant_config(const Manifest& manifest) {
  Json layers = quantized_layers(manifest);
  if (layers.empty()) return nullptr;
  return {{"producer", producer(manifest.producer_version)},
          {"quantization",
           {{"quant_algo", kQuantAlgo},
            {"kv_cache_quant_algo", manifest.fp8_kv_cache ? Json("FP8") : Json()},
            {"group_size", kGroupSize},
            {"quantized_layers", std::move(layers)},
            {"exclude_modules", excluded_modules(manifest)}}}};
}

Json dequantized_config(const Json& source_config, const std::string& dtype) {
  require_object(source_config, "the config");
  Json config = source_config;
  forget_quantization(config, dtype);
  if (config.contains("dtype")) config["dtype"] = dtype;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = dtype;
  return config;
}

Json without_quantization(Json config) {
  if (config.is_object())
    for (const char* key : {"quantization_config", "compression_config"}) config.erase(key);
  if (config.is_structured())
    for (Json& item : config) item = without_quantization(std::move(item));
  return config;
}

Json mxfp4_config(const Json& nvfp4_config) {
  require_object(nvfp4_config, "the config");
  Json config = nvfp4_config;
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || quantization->is_null()) return config;
  require_object(*quantization, "'quantization_config'");
  for (const char* key :
       {"config_groups", "exclude_modules", "group_size", "ignore", "kv_cache_quant_algo", "kv_cache_scheme",
        "moe_quant_algo", "producer", "quant_algo", "quantization", "quantized_layers"})
    quantization->erase(key);
  return config;
}

Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map,
                  uint64_t data_bytes) {
  Json metadata = source_metadata;
  metadata["total_size"] = data_bytes;
  return {{"metadata", std::move(metadata)}, {"weight_map", weight_map}};
}

}  // namespace nibblecast
