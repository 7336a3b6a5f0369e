#include <gtest/gtest.h>

#include "modelopt_testing.h"
#include "plan/engines/exclusion.h"
#include "plan/engines/modelopt.h"

namespace nibblecast {
namespace {

using enum Engine;
using testing::modelopt_output;
using testing::ModelOptOutput;
using testing::recipe_of_rules;
using testing::tiny_config;

std::vector<Breach> breaches(const ModelOptOutput& output) {
  return check_modelopt_contracts(output.model, output.config, output.hf_quant_config, output.tensors);
}

std::string text(const std::vector<Breach>& breaches) {
  std::string text;
  for (const Breach& breach : breaches)
    text += std::string(engine_name(breach.engine)) + ": " + breach.rule + "\n";
  return text;
}

// Exactly these engines object, with a rule that holds `part`.
void expect_breach(const ModelOptOutput& output, const std::set<Engine>& engines, const std::string& part) {
  std::set<Engine> found;
  for (const Breach& breach : breaches(output))
    if (breach.rule.find(part) != std::string::npos) found.insert(breach.engine);
  EXPECT_EQ(found, engines) << "'" << part << "' in:\n" << text(breaches(output));
}

const std::set<Engine> kEvery = {kVllm, kSglang, kTrtllm};

Json& quantization(ModelOptOutput& output) { return output.config["quantization_config"]; }
Json& hf_quantization(ModelOptOutput& output) { return output.hf_quant_config["quantization"]; }
// In both documents.
void set_excluded(ModelOptOutput& output, const Json& patterns) {
  quantization(output)["ignore"] = hf_quantization(output)["exclude_modules"] = patterns;
}
Tensor& tensor(ModelOptOutput& output, const std::string& name) {
  const auto found = std::ranges::find(output.tensors, name, &Tensor::name);
  if (found == output.tensors.end()) throw std::runtime_error(name);
  return *found;
}

TEST(ModelOptContracts, OutputsOfBuiltInRecipesKeepThem) {
  for (const char* model_type :
       {"llama", "qwen3", "qwen3_moe", "mixtral", "glm4_moe", "minimax_m2", "qwen3_next"}) {
    for (const std::string& recipe : built_in_recipes()) {
      const auto output = modelopt_output(model_type, recipe);
      if (output.hf_quant_config.is_null()) continue;
      EXPECT_EQ(text(breaches(output)), "") << model_type << ' ' << recipe;
    }
    EXPECT_EQ(text(breaches(modelopt_output(model_type, "nvfp4", KvCache::kFp8))), "");
  }
  EXPECT_EQ(text(breaches(modelopt_output("hy_v3", "nvfp4"))),
            "trtllm: no model class is known for model_type \"hy_v3\"\n");
}

TEST(ModelOptContracts, LatentAttentionKeepsThem) {
  for (const char* model_type : {"deepseek_v3", "kimi_k2"}) {
    for (const std::string& recipe : built_in_recipes())
      EXPECT_EQ(text(breaches(modelopt_output(model_type, recipe))), "") << model_type << ' ' << recipe;
  }
  for (const char* recipe : {"nvfp4_experts_only", "nvfp4_mlp_only", "nvfp4_omlp_only"}) {
    for (const char* model_type : {"deepseek_v32", "glm_moe_dsa"})
      EXPECT_EQ(text(breaches(modelopt_output(model_type, recipe))), "") << model_type << ' ' << recipe;
    EXPECT_EQ(text(breaches(modelopt_output("glm4_moe_lite", recipe))),
              "trtllm: no model class is known for model_type \"glm4_moe_lite\"\n");
  }
}

// vLLM never builds them quantized.
TEST(ModelOptContracts, VllmWantsTheIndexerKept) {
  const auto output = modelopt_output("deepseek_v32", "nvfp4");
  // And weights_proj, in both layers.
  expect_breach(output, {kVllm}, "model.layers.0.self_attn.indexer.wk and 3 more: is built as BF16");
  expect_breach(output, {}, "self_attn.indexer.wq_b");
}

TEST(ModelOptContracts, QueriesAndKeysOfALatentAreFused) {
  auto output = modelopt_output(
      tiny_config("deepseek_v3"),
      recipe_of_rules("  - modules: '*'\n    format: nvfp4\n"
                      "  - modules: ['*.mlp.gate', lm_head, model.embed_tokens, '*.0.self_attn.q_a_proj']\n"
                      "    format: keep\n"));
  expect_breach(output, kEvery, "model.layers.0.self_attn.fused_qkv_a_proj");
}

TEST(ModelOptContracts, TensorRtLlmTakesNoQuantizedInputsOfDeltaNets) {
  Json config = {{"architectures", {"Qwen3_5ForConditionalGeneration"}},
                 {"model_type", "qwen3_5"},
                 {"text_config", tiny_config("qwen3_5_text")}};
  const auto found = [&](const std::string& recipe) {
    return text(breaches(modelopt_output(config, load_recipe(system_files(), recipe))));
  };
  EXPECT_EQ(found("nvfp4_mlp_only"), "");
  EXPECT_EQ(
      found("nvfp4"),
      "trtllm: model.language_model.layers.0.linear_attn.in_proj_qkvz: must be excluded: in_proj_qkv and "
      "in_proj_z are packed by rows, without scales\n");
}

TEST(ModelOptContracts, MixturesKeepThem) {
  const auto output = modelopt_output(tiny_config("glm4_moe"),
                                      recipe_of_rules("  - modules: '*.experts.*'\n    format: nvfp4\n"
                                                      "  - modules: ['*.self_attn.*', '*.shared_experts.*']\n"
                                                      "    format: fp8\n"));
  EXPECT_EQ(text(breaches(output)), "");
}

TEST(ModelOptContracts, ATiedHeadIsExcluded) {
  Json config = tiny_config("qwen3");
  config["tie_word_embeddings"] = true;
  auto output = modelopt_output(config, load_recipe(system_files(), "nvfp4"));
  EXPECT_EQ(text(breaches(output)), "");
  set_excluded(output, {"model.embed_tokens"});
  expect_breach(output, kEvery, "lm_head: must be excluded");
}

// ---- documents ----

TEST(ModelOptContracts, Keys) {
  const auto with = [](const char* key, const Json& value) {
    auto output = modelopt_output("qwen3", "nvfp4");
    quantization(output)[key] = value;
    return output;
  };
  expect_breach(with("quant_method", "fp8"), kEvery, "quantization_config.quant_method must be \"modelopt\"");
  expect_breach(with("quant_algo", "W4A8_AWQ"), kEvery, "quantization_config.quant_algo must be");
  expect_breach(with("ignore", nullptr), {kVllm, kSglang},
                "quantization_config.ignore must be a list; found nothing");
  expect_breach(with("quantization", {{"quant_algo", "NVFP4"}}), {kVllm, kSglang},
                "quantization_config.quantization must be absent");
  expect_breach(with("group_size", nullptr), {kVllm, kSglang}, "quantization_config.group_size must be 16");
  expect_breach(with("kv_cache_scheme", "NVFP4"), kEvery, "quantization_config.kv_cache_scheme");
}

TEST(ModelOptContracts, DocumentsThatAreMissing) {
  auto output = modelopt_output("qwen3", "nvfp4");
  output.hf_quant_config = nullptr;
  expect_breach(output, {kTrtllm}, "hf_quant_config.json must be there");
  output.config.erase("quantization_config");
  expect_breach(output, kEvery, "config.json must have a quantization_config");
}

TEST(ModelOptContracts, DocumentsThatDisagree) {
  auto output = modelopt_output("qwen3", "nvfp4");
  hf_quantization(output)["exclude_modules"] = {"lm_head"};
  expect_breach(output, {kTrtllm}, "quantization.exclude_modules must say the same");
  hf_quantization(output)["kv_cache_quant_algo"] = "FP8";
  expect_breach(output, {kTrtllm}, "quantization.kv_cache_quant_algo must say the same");
}

TEST(ModelOptContracts, ModelClasses) {
  auto output = modelopt_output("qwen3", "nvfp4");
  output.config["architectures"] = {"Qwen2ForCausalLM"};
  expect_breach(output, kEvery, "architectures must name Qwen3ForCausalLM");
}

TEST(ModelOptContracts, AnyContentIsTaken) {
  const auto output = modelopt_output("qwen3", "nvfp4");
  for (const Json& odd :
       {Json(), Json(1), Json("x"), Json::array({1}), Json({{"quantization_config", 3}}),
        Json({{"quantization_config", {{"ignore", {1, nullptr}}, {"quant_algo", {1}}}}}),
        Json({{"quantization", {{"quant_algo", "MIXED_PRECISION"}, {"quantized_layers", {1}}}}})}) {
    EXPECT_FALSE(check_modelopt_contracts(output.model, odd, odd, {}).empty()) << odd;
  }
}

// ---- modules ----

TEST(ModelOptContracts, WhatIsExcludedIsPlain) {
  auto output = modelopt_output("qwen3", "nvfp4");
  set_excluded(output, {"lm_head", "model.embed_tokens", "model.layers.0.self_attn.o_proj"});
  expect_breach(output, kEvery, "model.layers.0.self_attn.o_proj: is built as BF16");
}

TEST(ModelOptContracts, WhatIsPlainIsExcluded) {
  auto output = modelopt_output("qwen3", "nvfp4_mlp_only");
  set_excluded(output, {"lm_head", "model.embed_tokens"});
  expect_breach(output, kEvery, "model.layers.0.self_attn.qkv_proj and 3 more: is built as NVFP4");
}

TEST(ModelOptContracts, PartsOfAFusedLayerAreExcludedTogether) {
  auto output = modelopt_output("qwen3", "nvfp4");
  set_excluded(output, {"lm_head", "model.layers.0.self_attn.k_proj"});
  expect_breach(output, {kVllm, kSglang},
                "model.layers.0.self_attn.qkv_proj: some of its parts are excluded");
  expect_breach(output, {kTrtllm}, "model.layers.0.self_attn.qkv_proj: is built as BF16");
}

TEST(ModelOptContracts, PartsOfAFusedLayerHaveOneAlgorithm) {
  const auto output = modelopt_output(tiny_config("qwen3"),
                                      recipe_of_rules("  - modules: '*.mlp.*'\n    format: nvfp4\n"
                                                      "  - modules: '*.1.mlp.up_proj'\n    format: fp8\n"));
  expect_breach(output, kEvery, "model.layers.1.mlp.gate_up_proj: its parts have different algorithms");
}

TEST(ModelOptContracts, ExpertsAreExcludedByAPatternOfTheirBlock) {
  auto output = modelopt_output(
      tiny_config("mixtral"), recipe_of_rules("  - modules: '*.layers.1.*.experts.*'\n    format: nvfp4\n"));
  EXPECT_EQ(text(breaches(output)), "");
  // The experts by their own names, which only vLLM takes for all.
  Json excluded = Json::array();
  for (const Json& pattern : quantization(output)["ignore"])
    if (pattern.get<std::string>().find("experts") == std::string::npos) excluded.push_back(pattern);
  for (const WeightModule& module : output.model.table.layers[0].modules)
    if (module.is_routed_expert()) excluded.push_back(module.name);
  set_excluded(output, excluded);
  expect_breach(output, {kSglang, kTrtllm}, "model.layers.0.block_sparse_moe.experts: is built as NVFP4");
}

TEST(ModelOptContracts, VllmCallsTheBlockOfMiniMaxOtherwise) {
  const auto output =
      modelopt_output(tiny_config("minimax_m2"),
                      recipe_of_rules("  - modules: '*.layers.1.*.experts.*'\n    format: nvfp4\n"));
  expect_breach(output, {kVllm}, "model.layers.0.block_sparse_moe.experts: is built as NVFP4");
}

TEST(ModelOptContracts, NeighboursOfAnExcludedLayerStay) {
  Json config = tiny_config("llama");
  config["num_hidden_layers"] = 12;
  const auto output =
      modelopt_output(config, recipe_of_rules("  - modules: '*_proj'\n    format: nvfp4\n"
                                              "  - modules: 'model.layers.1.*'\n    format: keep\n"));
  EXPECT_EQ(text(breaches(output)), "");
}

// ---- tensors ----

TEST(ModelOptContracts, TensorsOfAQuantizedModule) {
  const std::string module = "model.layers.1.mlp.down_proj";
  const auto edited = [&](const std::string& kind, const auto& edit) {
    auto output = modelopt_output("qwen3", "nvfp4");
    edit(tensor(output, module + "." + kind));
    return output;
  };
  const auto gone = [](Tensor& each) { each.name = "gone"; };
  for (const char* kind : {"weight", "weight_scale", "weight_scale_2", "input_scale"})
    expect_breach(edited(kind, gone), kEvery, module + ": " + kind + " must be present");
  expect_breach(edited("weight_scale", [](Tensor& each) { each.dtype = Dtype::kU8; }), kEvery,
                module + ": weight_scale must be F8_E4M3; found U8");
  expect_breach(edited("weight",
                       [](Tensor& each) {
                         each.shape = {32, 25};
                       }),
                kEvery, module + ": weight has the shape [32, 25], of a linear [32, 48]");
  expect_breach(edited("weight_scale",
                       [](Tensor& each) {
                         each.shape = {32, 2};
                       }),
                kEvery, module + ": weight_scale has the shape [32, 2]");
  expect_breach(edited("input_scale", [](Tensor& each) { each.shape = {2}; }), kEvery,
                module + ": input_scale has the shape [2]");
  EXPECT_EQ(text(breaches(edited("weight_scale_2", [](Tensor& each) { each.shape = {1}; }))), "");
}

TEST(ModelOptContracts, PlainModulesHaveNoScales) {
  auto output = modelopt_output("qwen3", "nvfp4_mlp_only");
  output.tensors.push_back({.name = "model.layers.0.self_attn.q_proj.input_scale", .dtype = Dtype::kF32});
  expect_breach(output, kEvery, "model.layers.0.self_attn.q_proj: input_scale must be absent");
}

TEST(ModelOptContracts, WeightOnlyMayHaveAnInputScale) {
  auto output = modelopt_output("qwen3", "w4a16_nvfp4");
  output.tensors.push_back({.name = "model.layers.0.mlp.up_proj.input_scale", .dtype = Dtype::kF32});
  EXPECT_EQ(text(breaches(output)), "");
}

TEST(ModelOptContracts, EveryExpertIsThere) {
  auto output = modelopt_output("qwen3_moe", "nvfp4_experts_only");
  std::erase_if(output.tensors,
                [](const Tensor& each) { return each.name.find(".1.mlp.experts.3.") != std::string::npos; });
  expect_breach(output, kEvery, "model.layers.1.mlp.experts.3.gate_proj and 2 more: weight must be present");
}

TEST(ModelOptContracts, CacheScalesAreOneValue) {
  auto output = modelopt_output("qwen3", "nvfp4", KvCache::kFp8);
  output.tensors.push_back({.name = "model.layers.0.self_attn.k_proj.k_scale", .dtype = Dtype::kF32});
  output.tensors.push_back(
      {.name = "model.layers.0.self_attn.v_proj.v_scale", .dtype = Dtype::kF32, .shape = {2}});
  expect_breach(output, kEvery, "model.layers.0.self_attn.v_proj: v_scale has the shape [2]");
  EXPECT_EQ(breaches(output).size(), 3u);
}

// ---- exclusion ----

Exclusion exclusion(Engine engine, const std::string& prefix, const std::vector<std::string>& patterns) {
  const Model model = read_model(tiny_config("qwen3_moe"), "");
  for (const EngineUnit& unit : engine_units(model.table))
    if (unit.prefix == prefix) return exclusion_of(engine, unit, prefix, patterns);
  ADD_FAILURE() << prefix;
  return Exclusion::kNone;
}

TEST(EngineUnits, AreWhatEnginesFuse) {
  const Model model = read_model(tiny_config("glm4_moe"), "");
  std::vector<std::string> prefixes;
  for (const EngineUnit& unit : engine_units(model.table)) prefixes.push_back(unit.prefix);
  const std::string first = "model.layers.0.", second = "model.layers.1.";
  EXPECT_EQ(prefixes,
            (std::vector<std::string>{
                first + "self_attn.qkv_proj", first + "self_attn.o_proj", first + "mlp.gate_up_proj",
                first + "mlp.down_proj", second + "self_attn.qkv_proj", second + "self_attn.o_proj",
                second + "mlp.gate", second + "mlp.shared_experts.gate_up_proj",
                second + "mlp.shared_experts.down_proj", second + "mlp.experts", "lm_head"}));
}

TEST(EngineExclusion, OfFusedLayers) {
  const std::string qkv = "model.layers.0.self_attn.qkv_proj", base = "model.layers.0.self_attn.";
  for (const Engine engine : kAllEngines) {
    EXPECT_EQ(exclusion(engine, qkv, {base + "q_proj", base + "k_proj", base + "v_proj"}), Exclusion::kAll);
    EXPECT_EQ(exclusion(engine, qkv, {"model.layers.0.self_attn*"}), Exclusion::kAll);
    EXPECT_EQ(exclusion(engine, qkv, {"model.layers.1.self_attn*", "lm_head"}), Exclusion::kNone);
  }
}

TEST(EngineExclusion, OfExperts) {
  const std::string experts = "model.layers.0.mlp.experts";
  for (const Engine engine : kAllEngines) {
    EXPECT_EQ(exclusion(engine, experts, {experts + "*"}), Exclusion::kAll);
    EXPECT_EQ(exclusion(engine, experts, {experts}), Exclusion::kAll);
    EXPECT_EQ(exclusion(engine, experts, {"model.layers.0.mlp.gate"}), Exclusion::kNone);
  }
}

TEST(EngineExclusion, OfARouterIsNoneOfItsNeighbours) {
  for (const Engine engine : kAllEngines)
    EXPECT_EQ(exclusion(engine, "model.layers.1.mlp.gate", {"model.layers.1.mlp.gate"}), Exclusion::kAll);
}

}  // namespace
}  // namespace nibblecast
