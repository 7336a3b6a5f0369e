// What the built-in recipes quantize in families other than DeepSeek-V4.
#include <gtest/gtest.h>

#include <map>

#include "family_models.h"
#include "modelopt_testing.h"
#include "plan/auto_recipe.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::modelopt_output;
using testing::quantized_modules;
using testing::recipe_of_rules;
using testing::tiny_config;

// The roles that a recipe quantizes, as "qkvo", "xz" of a delta net's input, "gud" of dense layers,
// "GUD" of shared and "e" of routed experts.
std::string roles(const std::string& model_type, const std::string& recipe) {
  static const std::map<Role, char> kLetters = {{Role::kQ, 'q'},        {Role::kK, 'k'},
                                                {Role::kV, 'v'},        {Role::kO, 'o'},
                                                {Role::kGate, 'g'},     {Role::kUp, 'u'},
                                                {Role::kDown, 'd'},     {Role::kQA, 'a'},
                                                {Role::kQB, 'b'},       {Role::kKvA, 'A'},
                                                {Role::kKvB, 'B'},      {Role::kIndexQ, 'x'},
                                                {Role::kIndexK, 'y'},   {Role::kIndexWeights, 'z'},
                                                {Role::kDeltaQkv, 'x'}, {Role::kDeltaQkvz, 'x'},
                                                {Role::kDeltaZ, 'z'}};
  std::string found;
  for (const ResolvedModule& each : modelopt_output(model_type, recipe).modules) {
    if (!modelopt_algorithm(each)) continue;
    const ModuleId& id = each.module->id;
    char letter = id.expert >= 0 ? 'e' : kLetters.at(id.role);
    if (id.shared) letter = static_cast<char>(std::toupper(letter));
    if (found.find(letter) == std::string::npos) found += letter;
  }
  return found;
}

TEST(ModelOptRecipes, Roles) {
  using Row = std::map<std::string, std::string>;
  const std::map<std::string, Row> expected = {
      {"llama",
       {{"nvfp4", "qkvogud"},
        {"nvfp4_mlp_only", "gud"},
        {"nvfp4_experts_only", ""},
        {"nvfp4_omlp_only", "ogud"}}},
      {"qwen3",
       {{"nvfp4", "qkvogud"},
        {"nvfp4_mlp_only", "gud"},
        {"nvfp4_experts_only", ""},
        {"nvfp4_omlp_only", "ogud"}}},
      {"qwen3_moe",
       {{"nvfp4", "qkvoe"}, {"nvfp4_mlp_only", "e"}, {"nvfp4_experts_only", "e"}, {"nvfp4_omlp_only", "oe"}}},
      {"mixtral",
       {{"nvfp4", "qkvoe"}, {"nvfp4_mlp_only", "e"}, {"nvfp4_experts_only", "e"}, {"nvfp4_omlp_only", "oe"}}},
      {"minimax_m2",
       {{"nvfp4", "qkvoe"}, {"nvfp4_mlp_only", "e"}, {"nvfp4_experts_only", "e"}, {"nvfp4_omlp_only", "oe"}}},
      {"glm4_moe",
       {{"nvfp4", "qkvogudGUDe"},
        {"nvfp4_mlp_only", "gudGUDe"},
        {"nvfp4_experts_only", "e"},
        {"nvfp4_omlp_only", "ogudGUDe"}}},
      {"qwen3_next",
       {{"nvfp4", "xoGUDeqkv"},
        {"nvfp4_mlp_only", "GUDe"},
        {"nvfp4_experts_only", "e"},
        {"nvfp4_omlp_only", "GUDeo"}}},
      {"qwen3_5_text",
       {{"nvfp4", "xzogudqkv"},
        {"nvfp4_mlp_only", "gud"},
        {"nvfp4_experts_only", ""},
        {"nvfp4_omlp_only", "gudo"}}},
      {"hy_v3",
       {{"nvfp4", "qkvogudGUDe"},
        {"nvfp4_mlp_only", "gudGUDe"},
        {"nvfp4_experts_only", "e"},
        {"nvfp4_omlp_only", "ogudGUDe"}}},
      {"deepseek_v3",
       {{"nvfp4", "aAbBogudGUDe"},
        {"nvfp4_mlp_only", "gudGUDe"},
        {"nvfp4_experts_only", "e"},
        {"nvfp4_omlp_only", "ogudGUDe"}}},
      {"deepseek_v32",
       {{"nvfp4", "aAbBoxyzgudGUDe"},
        {"nvfp4_mlp_only", "gudGUDe"},
        {"nvfp4_experts_only", "e"},
        {"nvfp4_omlp_only", "ogudGUDe"}}},
  };
  for (const auto& [model_type, row] : expected) {
    for (const auto& [recipe, found] : row)
      EXPECT_EQ(roles(model_type, recipe), found) << model_type << ' ' << recipe;
    EXPECT_EQ(roles(model_type, "w4a16_nvfp4"), row.at("nvfp4")) << model_type;
  }
}

TEST(ModelOptRecipes, PatternsAreHeldAgainstTransformersNamesToo) {
  const auto output =
      modelopt_output(tiny_config("mixtral"),
                      recipe_of_rules("  - modules: '*.mlp.experts.1.gate_proj'\n    format: bf16\n"
                                      "  - modules: '*.block_sparse_moe.experts.*'\n    format: nvfp4\n"));
  EXPECT_EQ(quantized_modules(output).size(), 24u);
  EXPECT_TRUE(quantized_modules(output).contains("model.layers.0.block_sparse_moe.experts.1.w1"));
}

TEST(ModelOptRecipes, AutoIsWhatIsPublished) {
  EXPECT_EQ(auto_recipe(read_model(tiny_config("llama"), "")), "nvfp4_mlp_only");
  EXPECT_EQ(auto_recipe(read_model(tiny_config("qwen3_moe"), "")), "nvfp4_experts_only");
  EXPECT_EQ(auto_recipe(read_model(families()[0]->presets[2].config(), "")), "nvfp4_experts_only");
}

class ModelOptGolden : public ::testing::TestWithParam<testing::GoldenExport> {};

TEST_P(ModelOptGolden, QuantizesTheSameModules) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam().family);
  const auto path = folder / ("modelopt-" + GetParam().recipe + ".json");
  const Json golden = parse_json(read_text(system_files(), path, 64 << 20), path.string());
  const Checkpoint source = Checkpoint::open(folder, system_files());
  const auto output = modelopt_output(source.config(), load_recipe(system_files(), GetParam().recipe));
  std::set<std::string> expected;
  constexpr std::string_view kScale = ".weight_scale_2";
  for (const auto& [name, unused] : golden.at("tensors").items())
    if (name.ends_with(kScale)) expected.insert(name.substr(0, name.size() - kScale.size()));
  EXPECT_EQ(quantized_modules(output), expected);
}

INSTANTIATE_TEST_SUITE_P(Hybrids, ModelOptGolden,
                         ::testing::Values(testing::GoldenExport{"qwen3_next", "nvfp4"},
                                           testing::GoldenExport{"qwen3_5", "nvfp4"},
                                           testing::GoldenExport{"qwen3_5_moe", "nvfp4"}));
INSTANTIATE_TEST_SUITE_P(
    ByModel, ModelOptGolden,
    ::testing::Values(
        testing::GoldenExport{"deepseek_v3", "nvfp4"}, testing::GoldenExport{"deepseek_v3", "nvfp4_mlp_only"},
        testing::GoldenExport{"deepseek_v3", "nvfp4_experts_only"}, testing::GoldenExport{"llama", "nvfp4"},
        testing::GoldenExport{"llama", "nvfp4_mlp_only"}, testing::GoldenExport{"qwen2", "nvfp4"},
        testing::GoldenExport{"qwen2", "nvfp4_mlp_only"}, testing::GoldenExport{"qwen3", "nvfp4"},
        testing::GoldenExport{"qwen3", "nvfp4_mlp_only"}, testing::GoldenExport{"qwen3_moe", "nvfp4"},
        testing::GoldenExport{"qwen3_moe", "nvfp4_experts_only"},
        testing::GoldenExport{"qwen3_moe", "nvfp4_mlp_only"}, testing::GoldenExport{"mixtral", "nvfp4"},
        testing::GoldenExport{"mixtral", "nvfp4_experts_only"},
        testing::GoldenExport{"mixtral", "nvfp4_mlp_only"}, testing::GoldenExport{"glm4_moe", "nvfp4"},
        testing::GoldenExport{"glm4_moe", "nvfp4_experts_only"},
        testing::GoldenExport{"glm4_moe", "nvfp4_mlp_only"}),
    [](const auto& golden) { return golden.param.name(); });

}  // namespace
}  // namespace nibblecast
