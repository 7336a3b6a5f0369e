#include "plan/recipe_modules.h"

#include <gmock/gmock.h>

#include <map>
#include <regex>
#include <set>

#include "model/family.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;

const std::filesystem::path kGolden =
    std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/plan/golden/modelopt_presets.json";

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_text(system_files(), path, 1 << 20), path.string());
}

Model preset(std::string_view name) { return read_model(preset_config(name), std::string(name)); }

// `model` outlives what is returned, here and below.
std::vector<ResolvedModule> resolve_built_in(const std::string& name, const Model& model) {
  return resolve_modules(load_recipe(system_files(), name), model.table, {});
}

// As transformers holds it: experts of a layer stacked, gate and up in one. "" for the second of a stack.
std::string stacked_name(const ResolvedModule& found) {
  const std::string& name = found.module->hub_name;
  const size_t experts = name.find(".experts.");
  if (experts == std::string::npos) return name;
  if (name.find(".experts.0.") == std::string::npos || name.ends_with(".up_proj")) return "";
  const std::string stack = name.substr(0, experts) + ".experts.";
  return stack + (name.ends_with("gate_proj") ? "gate_up_proj" : "down_proj");
}

// {"model.layers.N.self_attn.q_a_proj": {"count": 6, "quantize_input": true}}, as the golden file has it.
Json nvfp4_roles(const std::vector<ResolvedModule>& modules) {
  Json roles = Json::object();
  for (const ResolvedModule& found : modules) {
    const std::string name = stacked_name(found);
    if (found.recipe.format != WeightFormat::kNvfp4 || name.empty()) continue;
    const size_t layer = std::string_view("model.layers.").size();
    Json& role = roles["model.layers.N" + name.substr(name.find('.', layer))];
    role["count"] = (role.is_null() ? 0 : role["count"].get<int>()) + 1;
    role["quantize_input"] = found.recipe.quantize_input;
  }
  return roles;
}

class BuiltInRecipes : public ::testing::TestWithParam<const char*> {};

TEST_P(BuiltInRecipes, QuantizeWhatModelOptDoesInTinyV4) {
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const Model model = read_model(read_json(folder / "config.json"), "config.json");
  const Json expected = read_json(kGolden).at(GetParam());
  const Json found = nvfp4_roles(resolve_built_in(GetParam(), model));
  EXPECT_TRUE(found == expected) << Json::diff(expected, found).dump(1);
}

TEST_P(BuiltInRecipes, QuantizeTheSameRolesInAllModels) {
  std::set<std::string> expected;
  const Json golden = read_json(kGolden).at(GetParam());
  for (const auto& [role, unused] : golden.items()) expected.insert(role);
  for (const char* name : {"v4-tiny", "v4-flash", "v4-pro"}) {
    const Model model = preset(name);
    const std::vector<ResolvedModule> modules = resolve_built_in(GetParam(), model);
    std::set<std::string> roles;
    const Json found = nvfp4_roles(modules);
    for (const auto& [role, unused] : found.items()) roles.insert(role);
    EXPECT_EQ(roles, expected) << name;
    EXPECT_TRUE(found.at("model.layers.N.mlp.experts.down_proj").at("count") == model.layers());
    for (const ResolvedModule& each : modules) {
      EXPECT_EQ(each.recipe.method, RecipeMethod::kCast) << each.module->name;
      if (each.module->is_routed_expert()) {
        EXPECT_EQ(each.recipe.format, WeightFormat::kNvfp4) << each.module->name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(ByName, BuiltInRecipes,
                         ::testing::Values("nvfp4", "nvfp4_experts_only", "nvfp4_mlp_only", "nvfp4_omlp_only",
                                           "w4a16_nvfp4"),
                         [](const auto& name) { return std::string(name.param); });

TEST(RecipeModules, Nvfp4IsTheModulesOfModelOptsExport) {
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  const Model model = read_model(read_json(folder / "config.json"), "config.json");
  std::set<std::string> expected, found;
  const Json exported = read_json(modelopt / "nvfp4-full.json");
  for (const auto& [tensor, unused] : exported.items()) expected.insert(tensor.substr(0, tensor.rfind('.')));
  for (const ResolvedModule& each : resolve_built_in("nvfp4", model)) {
    if (each.recipe.format == WeightFormat::kNvfp4) found.insert(each.module->name);
  }
  EXPECT_EQ(found.size(), 350u);
  EXPECT_EQ(found, expected);
}

const Model& tiny() {
  static const Model model = preset("v4-tiny");
  return model;
}

std::vector<ResolvedModule> resolve_text(const std::string& rules) {
  return resolve_modules(parse_recipe("rules:\n" + rules, "r.yaml"), tiny().table, {});
}

void expect_refused(const std::string& rules, const std::string& message) {
  expect_error(
      ErrorKind::kUnsupported, [&] { resolve_text(rules); }, message);
}

TEST(RecipeModules, EveryModuleSaysWhy) {
  const auto modules = resolve_built_in("nvfp4", tiny());
  const ResolvedModule* gate = find_module(modules, "layers.1.ffn.gate.weight");
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->recipe.format, WeightFormat::kKeep);
  EXPECT_EQ(gate->recipe.rule, "recipe nvfp4:9:5: '*.gate'");
  EXPECT_EQ(find_module(modules, "model.layers.1.mlp.gate"), gate);
  EXPECT_EQ(find_module(modules, "layers.1.ffn.gate2"), nullptr);
  const auto experts = resolve_built_in("nvfp4_experts_only", tiny());
  EXPECT_EQ(find_module(experts, "layers.1.attn.wq_a")->recipe.rule, "no rule matches, so it stays");
}

TEST(RecipeModules, FormatsThatAModuleCannotHave) {
  expect_refused(
      "- {modules: '*', format: nvfp4}",
      "r.yaml:2:3: '*': embed as nvfp4: an embedding cannot have this format; add a rule after it that "
      "keeps embed");
  expect_refused("- {modules: head, format: fp8}", "head as fp8: the output head cannot have this format");
  expect_refused("- {modules: '*.gate', format: fp8_block}",
                 "layers.0.ffn.gate as fp8_block: a router cannot");
  expect_refused("- {modules: '*.wo_a', format: nvfp4}",
                 "layers.0.attn.wo_a as nvfp4: a grouped product cannot");
  EXPECT_FALSE(resolve_text("- {modules: '*', format: bf16}").empty());
  EXPECT_FALSE(resolve_text("- {modules: '*.wo_a', format: fp8_block}").empty());
}

TEST(RecipeModules, OneFormatForTheExpertsOfALayer) {
  const std::string all = "- {modules: '*.ffn.experts.*', format: nvfp4}\n";
  expect_refused(
      all + "- {modules: '*.experts.*.w2', format: bf16}",
      "r.yaml:3:3: '*.experts.*.w2': layers.0.ffn.experts.0.w2 as bf16: layers.0.ffn.experts.0.w1 becomes "
      "nvfp4 by r.yaml:2:3: '*.ffn.experts.*'; the routed experts of a layer have one format");
  expect_refused(all + "- {modules: '*.2.ffn.experts.5.*', format: nvfp4, quantize_input: false}",
                 "layers.2.ffn.experts.5.w1");
  EXPECT_FALSE(resolve_text(all + "- {modules: 'layers.2.ffn.experts.*', format: keep}").empty());
  EXPECT_FALSE(resolve_text(all + "- {modules: '*.w2', format: nvfp4, weight_method: mse}").empty());
}

TEST(RecipeModules, BlocksOfOtherSizesAreNotWritten) {
  Json json = preset_config("v4-tiny");
  json["quantization_config"]["weight_block_size"] = {32, 32};
  const Model model = read_model(json, "config.json");
  const Recipe recipe = parse_recipe("rules:\n- {modules: '*.wq_a', format: fp8_block}", "r.yaml");
  expect_error(
      ErrorKind::kUnsupported, [&] { resolve_modules(recipe, model.table, tile_size(json, "config.json")); },
      "blocks of 32 x 32");
}

TEST(RecipeModules, PatternsThatMatchNothingAreNamed) {
  const Recipe mine =
      parse_recipe("rules:\n- {modules: [mtp.*, '*.wq_a', '*.wq_c'], format: keep}", "r.yaml");
  EXPECT_THAT(unmatched_patterns(mine, resolve_modules(mine, tiny().table, {})),
              ElementsAre("r.yaml:2:3: '*.wq_c' matches no module that a recipe can change; no name holds "
                          "'wq_c': is 'wq_a' meant?"));
  const auto near = [&](const std::string& pattern) {
    const Recipe one = parse_recipe("rules: [{modules: '" + pattern + "', format: keep}]", "r");
    return unmatched_patterns(one, resolve_modules(one, tiny().table, {})).at(0);
  };
  EXPECT_THAT(near("*.ffn.expert.*"), HasSubstr("is 'experts' meant?"));
  EXPECT_THAT(near("*.FFN.experts.*"), HasSubstr("no name holds 'FFN': is 'ffn' meant?"));
  EXPECT_THAT(near("*.self_atn.*"), HasSubstr("is 'self_attn' meant?"));
  EXPECT_THAT(near("layers.77.*"), HasSubstr("no name holds '77'"));
  EXPECT_THAT(near("ffn*"), HasSubstr("names are such as "));
  const Recipe built_in = load_recipe(system_files(), "nvfp4_omlp_only");
  EXPECT_TRUE(unmatched_patterns(built_in, resolve_modules(built_in, tiny().table, {})).empty());
}

TEST(RecipeModules, ManifestOfExpertsAloneIsThatOfTheList) {
  const Json source = preset_config("v4-tiny");
  const std::vector<ManifestModule> modules =
      manifest_modules(resolve_built_in("nvfp4_experts_only", tiny()));
  const Manifest manifest{.modules = modules, .producer_version = "1"};
  std::vector<ManifestModule> experts;
  for (const ManifestModule& module : modules) {
    if (module.name.ends_with(".ffn.experts"))
      experts.push_back({.name = module.name, .format = WeightFormat::kNvfp4, .quantize_input = true});
  }
  EXPECT_EQ(experts.size(), tiny().layers());
  const Manifest alone{.modules = experts, .producer_version = "1"};
  EXPECT_EQ(output_config(source, manifest).dump(), output_config(source, alone).dump());
  EXPECT_EQ(output_hf_quant_config(manifest).dump(), output_hf_quant_config(alone).dump());
}

// The lists that engines match names with, and one entry for the experts of a layer.
TEST(RecipeModules, ManifestsOfTheBuiltInRecipes) {
  const std::map<std::string, Json> ignored = {
      {"nvfp4", {"*.attn.wo_a", "*.ffn.gate", "embed", "head", "mtp.*"}},
      {"nvfp4_experts_only", {"*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"}},
      {"nvfp4_mlp_only", {"*.attn.*", "*.ffn.gate", "embed", "head", "mtp.*"}},
      {"nvfp4_omlp_only", {"*.attn.*", "*.ffn.gate", "embed", "head", "mtp.*"}},
      {"w4a16_nvfp4", {"*.attn.wo_a", "*.ffn.gate", "embed", "head", "mtp.*"}},
  };
  for (const auto& [name, ignore] : ignored) {
    const std::vector<ManifestModule> modules = manifest_modules(resolve_built_in(name, tiny()));
    const Manifest manifest{.modules = modules, .producer_version = "1"};
    const Json quantization = output_config(preset_config("v4-tiny"), manifest)["quantization_config"];
    EXPECT_TRUE(quantization["ignore"] == ignore) << name << quantization["ignore"].dump();
    const std::string algo = name == "w4a16_nvfp4" ? "W4A16_NVFP4" : "NVFP4";
    EXPECT_EQ(quantization["moe_quant_algo"].get<std::string>(), algo);
    const Json& layers = quantization["quantized_layers"];
    EXPECT_EQ(layers.at("layers.0.ffn.experts").at("quant_algo").get<std::string>(), algo);
    EXPECT_EQ(layers.contains("layers.0.ffn.shared_experts.w1"), name != "nvfp4_experts_only");
    EXPECT_EQ(layers.contains("layers.0.attn.wq_a"), name == "nvfp4" || name == "w4a16_nvfp4");
    const Json hf = output_hf_quant_config(manifest);
    EXPECT_TRUE(hf["quantization"]["exclude_modules"] == ignore);
    EXPECT_TRUE(hf["quantization"]["quantized_layers"] == layers);
  }
}

}  // namespace
}  // namespace nibblecast
