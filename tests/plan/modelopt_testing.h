// tests/plan/modelopt_testing.h - outputs in ModelOpt's form, from tables alone.
#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/family.h"
#include "plan/dialects/modelopt.h"
#include "testing.h"

namespace nibblecast::testing {

// Of multi-head latent attention.
inline bool is_latent(const std::string& model_type) {
  return model_type.starts_with("deepseek_v3") || model_type == "kimi_k2" || model_type == "glm_moe_dsa" ||
         model_type == "glm4_moe_lite";
}

inline Json tiny_config(const std::string& model_type) {
  static const std::map<std::string, std::string> kClasses = {{"llama", "LlamaForCausalLM"},
                                                              {"qwen3", "Qwen3ForCausalLM"},
                                                              {"qwen3_moe", "Qwen3MoeForCausalLM"},
                                                              {"mixtral", "MixtralForCausalLM"},
                                                              {"glm4_moe", "Glm4MoeForCausalLM"},
                                                              {"minimax_m2", "MiniMaxM2ForCausalLM"},
                                                              {"hy_v3", "HYV3ForCausalLM"},
                                                              {"deepseek_v3", "DeepseekV3ForCausalLM"},
                                                              {"kimi_k2", "DeepseekV3ForCausalLM"},
                                                              {"deepseek_v32", "DeepseekV32ForCausalLM"},
                                                              {"glm_moe_dsa", "GlmMoeDsaForCausalLM"},
                                                              {"glm4_moe_lite", "Glm4MoeLiteForCausalLM"},
                                                              {"qwen3_next", "Qwen3NextForCausalLM"},
                                                              {"qwen3_5_text", "Qwen3_5ForCausalLM"}};
  Json config = {{"architectures", {kClasses.at(model_type)}},
                 {"model_type", model_type},
                 {"vocab_size", 64},
                 {"hidden_size", 32},
                 {"intermediate_size", 48},
                 {"num_hidden_layers", 2},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 16},
                 {"num_experts_per_tok", 2},
                 {"num_experts", 4},
                 {"n_routed_experts", 4},
                 {"num_local_experts", 4},
                 {"moe_intermediate_size", 16}};
  if (model_type == "qwen3_next" || model_type == "qwen3_5_text") {
    config.update({{"layer_types", {"linear_attention", "full_attention"}},
                   {"linear_key_head_dim", 8},
                   {"linear_num_key_heads", 2},
                   {"linear_num_value_heads", 4},
                   {"linear_value_head_dim", 8},
                   {"shared_expert_intermediate_size", 16}});
  }
  if (!is_latent(model_type)) return config;
  config.update({{"num_key_value_heads", 4},
                 {"n_group", 1},
                 {"topk_group", 1},
                 {"first_k_dense_replace", 1},
                 {"q_lora_rank", 32},
                 {"kv_lora_rank", 16},
                 {"qk_nope_head_dim", 16},
                 {"qk_rope_head_dim", 16},
                 {"v_head_dim", 16},
                 {"index_topk", 64},
                 {"index_n_heads", 2},
                 {"index_head_dim", 16}});
  return config;
}

// The tensors of a module as a recipe leaves it.
inline std::vector<Tensor> output_tensors(const ResolvedModule& resolved) {
  const std::string& name = resolved.module->name;
  const Shape& shape = resolved.module->shape;
  const auto algorithm = modelopt_algorithm(resolved);
  if (!algorithm) return {{.name = name + ".weight", .dtype = Dtype::kBF16, .shape = shape}};
  std::vector<Tensor> tensors;
  if (*algorithm == "FP8") {
    tensors.push_back({.name = name + ".weight", .dtype = Dtype::kF8E4M3, .shape = shape});
    tensors.push_back({.name = name + ".weight_scale", .dtype = Dtype::kF32});
  } else {
    tensors.push_back({.name = name + ".weight", .dtype = Dtype::kU8, .shape = {shape[0], shape[1] / 2}});
    tensors.push_back(
        {.name = name + ".weight_scale", .dtype = Dtype::kF8E4M3, .shape = {shape[0], shape[1] / 16}});
    tensors.push_back({.name = name + ".weight_scale_2", .dtype = Dtype::kF32});
  }
  if (*algorithm != "W4A16_NVFP4") tensors.push_back({.name = name + ".input_scale", .dtype = Dtype::kF32});
  return tensors;
}

// What quantize would write of a model by a recipe, without data.
struct ModelOptOutput {
  Model model;
  std::vector<ResolvedModule> modules;
  Json config, hf_quant_config;
  std::vector<Tensor> tensors;

  const Json& quantization() const { return config.at("quantization_config"); }
  const Json& hf_quantization() const { return hf_quant_config.at("quantization"); }
};

// A source of one empty tensor.
inline Checkpoint empty_checkpoint(const TemporaryFolder& folder, const Json& config,
                                   const std::vector<std::string>& names = {"nothing"}) {
  std::string header;
  for (const std::string& name : names)
    header += (header.empty() ? "{" : ",") + Json(name).dump() +
              R"(:{"dtype":"BF16","shape":[0],"data_offsets":[0,0]})";
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  const auto write = [&](const char* name, const std::string& text) {
    const auto file = system_files().open(folder.path() / name, Access::kCreate);
    file->write(0, std::as_bytes(std::span(text)));
  };
  write("model.safetensors", length + header);
  write("config.json", config.dump());
  return Checkpoint::open(folder.path(), system_files());
}

inline ModelOptOutput modelopt_output(const Json& config, const Recipe& recipe,
                                      KvCache kv_cache = KvCache::kNone,
                                      const std::vector<std::string>& names = {"nothing"}) {
  const TemporaryFolder folder;
  ModelOptOutput output;
  output.model = read_model(config, "config.json");
  output.modules = resolve_modules(recipe, output.model.table, {});
  const Checkpoint source = empty_checkpoint(folder, config, names);
  ModelOptDocuments documents =
      modelopt_documents(source, output.model.table, output.modules, kv_cache, "1.2.3");
  output.config = std::move(documents.config);
  output.hf_quant_config = std::move(documents.hf_quant_config);
  for (const ResolvedModule& each : output.modules) {
    for (Tensor& tensor : output_tensors(each)) output.tensors.push_back(std::move(tensor));
  }
  return output;
}

inline ModelOptOutput modelopt_output(const std::string& model_type, const std::string& recipe,
                                      KvCache kv_cache = KvCache::kNone) {
  return modelopt_output(tiny_config(model_type), load_recipe(system_files(), recipe), kv_cache);
}

inline Recipe recipe_of_rules(const std::string& rules) { return parse_recipe("rules:\n" + rules, "r.yaml"); }

inline std::set<std::string> quantized_modules(const ModelOptOutput& output) {
  std::set<std::string> names;
  for (const ResolvedModule& each : output.modules)
    if (modelopt_algorithm(each)) names.insert(each.module->name);
  return names;
}

// An export of ModelOpt's own in the shared models.
struct GoldenExport {
  std::string family, recipe;
  std::string name() const { return family + "_" + recipe; }
};

}  // namespace nibblecast::testing
