#include "checkpoint/manifest.h"

#include "base/error.h"

namespace nibblecast {
namespace {

Json producer(std::string_view version) { return {{"name", "nibblecast"}, {"version", version}}; }

// What stays as the source has it: patterns over official module names.
Json ignored_modules() { return {"*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"}; }

Json quantized_layers(std::span<const std::string> modules) {
  Json layers = Json::object();
  for (const std::string& module : modules) layers[module] = {{"quant_algo", "NVFP4"}, {"group_size", 16}};
  return layers;
}

}  // namespace

Json nvfp4_experts_config(const Json& source_config, std::span<const std::string> modules, std::string_view version) {
  Json config = source_config;
  Json& quantization = config["quantization_config"];
  if (quantization.is_null()) quantization = Json::object();
  if (!quantization.is_object()) {
    throw Error(ErrorKind::kBadInput, {.file = "config.json"}, "quantization_config is not an object",
                {.found = quantization.type_name()});
  }
  quantization.erase("exclude_modules");
  quantization.erase("quantization");
  if (!quantization.contains("quant_method")) quantization["quant_method"] = "fp8";
  if (!quantization.contains("activation_scheme")) quantization["activation_scheme"] = "dynamic";
  if (!quantization.contains("weight_block_size")) quantization["weight_block_size"] = {128, 128};
  const Json numbers = {{"dynamic", false}, {"group_size", 16}, {"num_bits", 4}, {"type", "float"}};
  quantization["config_groups"] = {
      {"group_0", {{"input_activations", numbers}, {"weights", numbers}, {"targets", {"Linear"}}}}};
  quantization["group_size"] = 16;
  quantization["ignore"] = ignored_modules();
  quantization["kv_cache_quant_algo"] = nullptr;
  quantization["moe_quant_algo"] = "NVFP4";
  quantization["producer"] = producer(version);
  quantization["quant_algo"] = "MIXED_PRECISION";
  quantization["quantized_layers"] = quantized_layers(modules);
  return config;
}

Json nvfp4_experts_hf_quant_config(std::span<const std::string> modules, std::string_view version) {
  return {{"producer", producer(version)},
          {"quantization", {{"quant_algo", "MIXED_PRECISION"},
                            {"kv_cache_quant_algo", nullptr},
                            {"group_size", 16},
                            {"quantized_layers", quantized_layers(modules)},
                            {"exclude_modules", ignored_modules()}}}};
}

Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map, uint64_t total_size) {
  Json metadata = source_metadata.is_object() ? source_metadata : Json::object();
  metadata["total_size"] = total_size;
  return {{"metadata", std::move(metadata)}, {"weight_map", weight_map}};
}

}  // namespace nibblecast
