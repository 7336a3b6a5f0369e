#include <gtest/gtest.h>

#include "modelopt_testing.h"
#include "plan/dialects/modelopt.h"
#include "plan/glob.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::modelopt_output;
using testing::ModelOptOutput;
using testing::recipe_of_rules;
using testing::tiny_config;

const Json kNvfp4 = {{"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
const Json kFp8 = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
const Json kProducer = {{"name", "nibblecast"}, {"version", "1.2.3"}};

TEST(ModelOptDocuments, Uniform) {
  const ModelOptOutput output = modelopt_output("qwen3_moe", "nvfp4_experts_only");
  Json excluded = {"lm_head", "model.embed_tokens"};
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* name :
         {"mlp.gate", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"})
      excluded.push_back(std::string(layer) + name);
  }
  EXPECT_EQ(
      output.quantization(),
      Json({{"config_groups",
             {{"group_0", {{"input_activations", kNvfp4}, {"weights", kNvfp4}, {"targets", {"Linear"}}}}}},
            {"ignore", excluded},
            {"quant_algo", "NVFP4"},
            {"group_size", 16},
            {"producer", kProducer},
            {"quant_method", "modelopt"}}));
  EXPECT_EQ(output.hf_quant_config, Json({{"producer", kProducer},
                                          {"quantization",
                                           {{"quant_algo", "NVFP4"},
                                            {"kv_cache_quant_algo", nullptr},
                                            {"group_size", 16},
                                            {"exclude_modules", excluded}}}}));
}

TEST(ModelOptDocuments, TheRestOfTheConfigStays) {
  Json config = tiny_config("llama");
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  config["rope_theta"] = 5e5;
  const auto output = modelopt_output(config, load_recipe(system_files(), "nvfp4_mlp_only"));
  Json rest = output.config;
  rest.erase("quantization_config");
  config.erase("quantization_config");
  EXPECT_EQ(rest, config);
  EXPECT_FALSE(output.quantization().contains("weight_block_size"));
}

TEST(ModelOptDocuments, WeightsAlone) {
  const ModelOptOutput output = modelopt_output("llama", "w4a16_nvfp4");
  EXPECT_EQ(output.quantization().at("quant_algo"), "W4A16_NVFP4");
  EXPECT_EQ(output.quantization().at("config_groups").at("group_0"),
            Json({{"weights", kNvfp4}, {"targets", {"Linear"}}}));
}

TEST(ModelOptDocuments, Fp8HasNoGroupSize) {
  const auto output =
      modelopt_output(tiny_config("llama"), recipe_of_rules("  - modules: '*_proj'\n    format: fp8\n"));
  EXPECT_EQ(output.quantization().at("quant_algo"), "FP8");
  EXPECT_FALSE(output.quantization().contains("group_size"));
  EXPECT_FALSE(output.hf_quantization().contains("group_size"));
  EXPECT_EQ(output.quantization().at("config_groups").at("group_0").at("weights"), kFp8);
}

TEST(ModelOptDocuments, Mixture) {
  const auto output = modelopt_output(
      tiny_config("llama"), recipe_of_rules("  - modules: '*.mlp.*'\n    format: nvfp4\n"
                                            "  - modules: '*.self_attn.*'\n    format: fp8\n"
                                            "  - modules: 'model.layers.1.mlp.*'\n    format: keep\n"));
  const Json& quantization = output.quantization();
  EXPECT_EQ(quantization.at("quant_algo"), "MIXED_PRECISION");
  EXPECT_FALSE(quantization.contains("group_size"));
  EXPECT_EQ(quantization.at("quantized_layers").size(), 11u);
  EXPECT_EQ(quantization.at("quantized_layers").at("model.layers.0.mlp.up_proj"),
            Json({{"quant_algo", "NVFP4"}, {"group_size", 16}}));
  EXPECT_EQ(quantization.at("quantized_layers").at("model.layers.1.self_attn.q_proj"),
            Json({{"quant_algo", "FP8"}}));
  EXPECT_EQ(quantization.at("ignore"), Json({"lm_head", "model.embed_tokens", "model.layers.1.mlp.down_proj",
                                             "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"}));
  EXPECT_EQ(quantization.at("config_groups").at("group_0"),
            Json({{"input_activations", kNvfp4},
                  {"weights", kNvfp4},
                  {"targets",
                   {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj",
                    "model.layers.0.mlp.up_proj"}}}));
  EXPECT_EQ(quantization.at("config_groups").at("group_1").at("weights"), kFp8);
  EXPECT_EQ(output.hf_quantization().at("quantized_layers"), quantization.at("quantized_layers"));
  EXPECT_EQ(output.hf_quantization().at("exclude_modules"), quantization.at("ignore"));
}

TEST(ModelOptDocuments, KeptExpertsAreExcludedAsOne) {
  const auto output = modelopt_output(
      tiny_config("mixtral"), recipe_of_rules("  - modules: '*.layers.1.*.experts.*'\n    format: nvfp4\n"));
  const Json& ignore = output.quantization().at("ignore");
  EXPECT_NE(std::find(ignore.begin(), ignore.end(), "model.layers.0.block_sparse_moe.experts*"),
            ignore.end());
  EXPECT_EQ(ignore.dump().find("experts."), std::string::npos);
}

TEST(ModelOptDocuments, ATiedHeadIsExcluded) {
  Json config = tiny_config("qwen3");
  config["tie_word_embeddings"] = true;
  const auto output = modelopt_output(config, load_recipe(system_files(), "nvfp4"));
  EXPECT_EQ(output.quantization().at("ignore"), Json({"lm_head", "model.embed_tokens"}));
}

TEST(ModelOptDocuments, DraftLayersOfTheSourceAreExcluded) {
  const Recipe recipe = load_recipe(system_files(), "nvfp4");
  const auto without = modelopt_output(tiny_config("glm4_moe"), recipe);
  const auto with =
      modelopt_output(tiny_config("glm4_moe"), recipe, KvCache::kNone, {"model.layers.2.eh_proj.weight"});
  EXPECT_EQ(without.quantization().at("ignore").dump().find("layers.2"), std::string::npos);
  const Json& ignore = with.quantization().at("ignore");
  EXPECT_NE(std::find(ignore.begin(), ignore.end(), "model.layers.2.*"), ignore.end());
}

TEST(ModelOptDocuments, KvCache) {
  for (const enum KvCache kv_cache : {KvCache::kFp8Cast, KvCache::kFp8}) {
    const auto output = modelopt_output("llama", "nvfp4", kv_cache);
    EXPECT_EQ(output.quantization().at("kv_cache_scheme"), kFp8);
    EXPECT_EQ(output.hf_quantization().at("kv_cache_quant_algo"), "FP8");
  }
  EXPECT_FALSE(modelopt_output("llama", "nvfp4").quantization().contains("kv_cache_scheme"));
  expect_error(
      ErrorKind::kUnsupported, [] { modelopt_output("llama", "nvfp4", KvCache::kNvfp4Cast); }, "nvfp4_cast");
  expect_error(
      ErrorKind::kUnsupported, [] { modelopt_output("llama", "nvfp4_experts_only", KvCache::kFp8); },
      "--kv-cache fp8");
}

TEST(ModelOptDocuments, NothingQuantizedIsNoQuantization) {
  const auto output = modelopt_output("llama", "nvfp4_experts_only");
  EXPECT_TRUE(output.hf_quant_config.is_null());
  EXPECT_FALSE(output.config.contains("quantization_config"));
}

TEST(ModelOptDocuments, FormatsThatItLacksAreRefused) {
  const auto refused = [](const std::string& rule) {
    expect_error(
        ErrorKind::kUnsupported, [&] { modelopt_output(tiny_config("llama"), recipe_of_rules(rule)); },
        "model.layers.0.mlp.up_proj", "r.yaml:2:5");
  };
  refused("  - modules: '*.up_proj'\n    format: fp8_block\n");
  refused("  - modules: '*.up_proj'\n    format: fp8\n    quantize_input: false\n");
}

class ModelOptGoldenDocuments : public ::testing::TestWithParam<testing::GoldenExport> {};

bool excludes(const Json& patterns, const std::string& name) {
  return std::ranges::any_of(patterns,
                             [&](const Json& each) { return glob_match(each.get<std::string>(), name); });
}

// ModelOpt 0.47 wrote them: without the group size at the top, and with shorter patterns.
TEST_P(ModelOptGoldenDocuments, SayWhatModelOptSays) {
  SKIP_WITHOUT_SHARED_MODEL(folder, "families/" + GetParam().family);
  const auto path = folder / ("modelopt-" + GetParam().recipe + ".json");
  const Json golden = parse_json(read_text(system_files(), path, 64 << 20), path.string());
  const Checkpoint source = Checkpoint::open(folder, system_files());
  const auto output = modelopt_output(source.config(), load_recipe(system_files(), GetParam().recipe));
  const Json theirs = golden.at("config").at("quantization_config"), ours = output.quantization();
  for (const char* key : {"config_groups", "quant_algo", "quant_method"})
    EXPECT_EQ(ours.at(key), theirs.at(key)) << key;
  EXPECT_EQ(ours.size(), theirs.size() + 1);
  EXPECT_EQ(output.hf_quantization().size(), golden.at("hf_quant_config").at("quantization").size());
  for (const ResolvedModule& each : output.modules) {
    const std::string& name = each.module->name;
    EXPECT_EQ(excludes(ours.at("ignore"), name), excludes(theirs.at("ignore"), name)) << name;
  }
  EXPECT_EQ(excludes(ours.at("ignore"), "lm_head"), excludes(theirs.at("ignore"), "lm_head"));
}

INSTANTIATE_TEST_SUITE_P(ByModel, ModelOptGoldenDocuments,
                         ::testing::Values(testing::GoldenExport{"llama", "nvfp4"},
                                           testing::GoldenExport{"llama", "nvfp4_mlp_only"},
                                           testing::GoldenExport{"qwen2", "nvfp4"},
                                           testing::GoldenExport{"qwen3", "nvfp4"},
                                           testing::GoldenExport{"qwen3_moe", "nvfp4_experts_only"},
                                           testing::GoldenExport{"mixtral", "nvfp4"},
                                           testing::GoldenExport{"mixtral", "nvfp4_experts_only"},
                                           testing::GoldenExport{"glm4_moe", "nvfp4"},
                                           testing::GoldenExport{"glm4_moe", "nvfp4_experts_only"},
                                           testing::GoldenExport{"glm4_moe", "nvfp4_mlp_only"},
                                           testing::GoldenExport{"deepseek_v3", "nvfp4"},
                                           testing::GoldenExport{"deepseek_v3", "nvfp4_experts_only"},
                                           testing::GoldenExport{"deepseek_v3", "nvfp4_mlp_only"}),
                         [](const auto& golden) { return golden.param.name(); });

}  // namespace
}  // namespace nibblecast
