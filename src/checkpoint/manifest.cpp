#include "checkpoint/manifest.h"

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr int kGroupSize = 16;
constexpr const char* kQuantAlgo = "MIXED_PRECISION";

// What stays as the source has it. vLLM keeps the draft layers' experts MXFP4 only because `mtp.*` is here,
// and would take main layers for MXFP4 if a pattern matched "layers.N.ffn.experts".
Json excluded_modules() { return {"*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"}; }

Json producer(const std::string& version) { return {{"name", "nibblecast"}, {"version", version}}; }

Json quantized_layers(std::span<const std::string> modules) {
  Json layers = Json::object();
  for (const std::string& module : modules)
    layers[module] = {{"quant_algo", "NVFP4"}, {"group_size", kGroupSize}};
  return layers;
}

Json config_groups() {
  const Json nvfp4 = {{"dynamic", false}, {"group_size", kGroupSize}, {"num_bits", 4}, {"type", "float"}};
  const Json group = {{"input_activations", nvfp4}, {"targets", Json::array({"Linear"})}, {"weights", nvfp4}};
  return {{"group_0", group}};
}

void require_object(const Json& value, const char* name) {
  if (value.is_object()) return;
  throw Error(ErrorKind::kBadInput, {.file = "config.json"}, std::string(name) + " is not an object",
              {.found = value.type_name()});
}

}  // namespace

Json nvfp4_experts_config(const Json& source_config, std::span<const std::string> nvfp4_modules,
                          const std::string& producer_version) {
  require_object(source_config, "the config");
  Json config = source_config;
  Json& quantization = config["quantization_config"];
  if (quantization.is_null()) quantization = Json::object();
  require_object(quantization, "'quantization_config'");
  quantization.erase("exclude_modules");
  quantization.erase("quantization");
  quantization.emplace("activation_scheme", "dynamic");
  quantization.emplace("weight_block_size", Json::array({128, 128}));
  quantization["config_groups"] = config_groups();
  quantization["group_size"] = kGroupSize;
  quantization["ignore"] = excluded_modules();
  quantization["kv_cache_quant_algo"] = nullptr;
  quantization["moe_quant_algo"] = "NVFP4";
  quantization["producer"] = producer(producer_version);
  quantization["quant_algo"] = kQuantAlgo;
  quantization["quant_method"] = "fp8";
  quantization["quantized_layers"] = quantized_layers(nvfp4_modules);
  return config;
}

Json nvfp4_experts_hf_quant_config(std::span<const std::string> nvfp4_modules,
                                   const std::string& producer_version) {
  return {{"producer", producer(producer_version)},
          {"quantization",
           {{"quant_algo", kQuantAlgo},
            {"kv_cache_quant_algo", nullptr},
            {"group_size", kGroupSize},
            {"quantized_layers", quantized_layers(nvfp4_modules)},
            {"exclude_modules", excluded_modules()}}}};
}

Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map,
                  uint64_t data_bytes) {
  Json metadata = source_metadata;
  metadata["total_size"] = data_bytes;
  return {{"metadata", std::move(metadata)}, {"weight_map", weight_map}};
}

}  // namespace nibblecast
