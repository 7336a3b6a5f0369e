#include "plan/recipe.h"

#include <gmock/gmock.h>

#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using testing::TemporaryFolder;

Recipe parse(const std::string& text) { return parse_recipe(text, "r.yaml"); }

void expect_refused(const std::string& text, const std::string& message) {
  expect_error(
      ErrorKind::kBadInput, [&] { parse(text); }, message);
}

const std::string kMixed = R"(
rules:
  - modules: "*"
    format: bf16
  - modules: ["*.ffn.experts.*", layers.0.attn.wq_a]
    format: nvfp4
    weight_method: mse
  - {modules: "*.self_attn.q_b_proj", format: fp8, quantize_input: false}
  - modules: head
    format: keep
kv_cache: fp8_cast
)";

TEST(Recipe, LastMatchDecidesByEitherName) {
  const Recipe recipe = parse(kMixed);
  EXPECT_EQ(recipe.kv_cache, KvCache::kFp8Cast);
  const ModuleRecipe expert = resolve(recipe, "layers.9.ffn.experts.3.w1", "");
  EXPECT_EQ(expert.format, WeightFormat::kNvfp4);
  EXPECT_EQ(expert.method, RecipeMethod::kMse);
  EXPECT_TRUE(expert.quantize_input);
  EXPECT_EQ(expert.rule, "r.yaml:5:5: '*.ffn.experts.*'");
  const ModuleRecipe q = resolve(recipe, "layers.1.attn.wq_b", "model.layers.1.self_attn.q_b_proj");
  EXPECT_EQ(q.format, WeightFormat::kFp8);
  EXPECT_FALSE(q.quantize_input);
  EXPECT_EQ(q.rule, "r.yaml:8:5: '*.self_attn.q_b_proj'");
  EXPECT_EQ(resolve(recipe, "layers.1.attn.wq_a", "").format, WeightFormat::kBf16);
  EXPECT_FALSE(resolve(recipe, "layers.1.attn.wq_a", "").quantize_input);
  EXPECT_EQ(resolve(recipe, "layers.0.attn.wq_a", "").format, WeightFormat::kNvfp4);
  EXPECT_EQ(resolve(recipe, "head", "lm_head").format, WeightFormat::kKeep);
}

TEST(Recipe, WhatNoRuleNamesIsKeptAndSaysSo) {
  const ModuleRecipe found = resolve(parse("rules: []"), "layers.1.attn.wq_a", "");
  EXPECT_EQ(found.format, WeightFormat::kKeep);
  EXPECT_EQ(found.rule, "no rule matches, so it stays");
}

TEST(Recipe, DraftLayersStay) {
  const ModuleRecipe found = resolve(parse(kMixed), "mtp.0.attn.wq_a", "");
  EXPECT_EQ(found.format, WeightFormat::kKeep);
  EXPECT_EQ(found.rule, "draft layers stay as the source has them");
}

TEST(Recipe, WeightMethodOfTheCommandLineWins) {
  Recipe recipe = parse(kMixed);
  recipe.weight_method = RecipeMethod::kFourOverSix;
  const ModuleRecipe expert = resolve(recipe, "layers.9.ffn.experts.3.w1", "");
  EXPECT_EQ(expert.method, RecipeMethod::kFourOverSix);
  EXPECT_EQ(expert.rule, "r.yaml:5:5: '*.ffn.experts.*', with --weight-method four_over_six");
  EXPECT_EQ(resolve(recipe, "layers.1.attn.wq_a", "").method, RecipeMethod::kCast);
}

TEST(Recipe, MethodsOfWeightsThatAreNotCast) {
  EXPECT_EQ(requantize_method(RecipeMethod::kCast), WeightMethod::kMax);
  EXPECT_EQ(requantize_method(RecipeMethod::kMax), WeightMethod::kMax);
  EXPECT_EQ(requantize_method(RecipeMethod::kMse), WeightMethod::kMse);
  EXPECT_EQ(requantize_method(RecipeMethod::kFourOverSix), WeightMethod::kFourOverSix);
}

TEST(Recipe, BuiltInsLoadByName) {
  EXPECT_THAT(built_in_recipes(),
              ElementsAre("nvfp4", "nvfp4_experts_only", "nvfp4_mlp_only", "nvfp4_omlp_only", "w4a16_nvfp4"));
  for (const std::string& name : built_in_recipes()) {
    const Recipe recipe = load_recipe(system_files(), name);
    EXPECT_EQ(recipe.name, name);
    EXPECT_EQ(recipe.origin, "recipe " + name);
    EXPECT_EQ(recipe.kv_cache, KvCache::kNone);
    EXPECT_FALSE(recipe.description.empty());
  }
}

TEST(Recipe, FilesLoadByPath) {
  TemporaryFolder folder;
  const std::string path = (folder.path() / "mine.yaml").string();
  write_text_durably(system_files(), path, "rules: []\n");
  EXPECT_EQ(load_recipe(system_files(), path).name, "mine");
  EXPECT_EQ(load_recipe(system_files(), path).origin, path);
  write_text_durably(system_files(), path, std::string((64 << 10) + 1, '#'));
  expect_error(
      ErrorKind::kBadInput, [&] { load_recipe(system_files(), path); }, path);
  expect_error(
      ErrorKind::kBadInput, [&] { load_recipe(system_files(), path + ".yaml"); }, path);
  expect_error(
      ErrorKind::kUsage, [&] { load_recipe(system_files(), "int3"); }, "unknown recipe 'int3'",
      "nvfp4_mlp_only");
}

TEST(RecipeErrors, NamePlaceAndProblem) {
  expect_refused("", "r.yaml:1:1: a recipe is a map with the key 'rules'");
  expect_refused("- a", "r.yaml:1:1: a recipe is a map with the key 'rules'");
  expect_refused("name: x", "r.yaml:1:1: a recipe needs the key 'rules'");
  expect_refused("rules: 3", "r.yaml:1:8: 'rules' is a list of rules");
  expect_refused("rules: []\nrule: []",
                 "r.yaml:2:1: unknown key 'rule' (expected name, description, kv_cache, rules)");
  expect_refused(
      "rules: []\nkv_cache: fp4",
      "r.yaml:2:11: 'kv_cache' has no such value (expected none, fp8_cast, fp8, nvfp4_cast, found 'fp4')");
  expect_refused("rules: []\nname: [a]", "r.yaml:2:7: 'name' is no list, map or nothing");
  expect_refused("rules: [a]", "r.yaml:1:9: a rule is a map with the keys 'modules' and 'format'");
  expect_refused("rules:\n - format: nvfp4", "r.yaml:2:4: a rule needs the key 'modules'");
  expect_refused("rules:\n - modules: a", "r.yaml:2:4: a rule needs the key 'format'");
  expect_refused("rules:\n - modules: []\n   format: keep", "r.yaml:2:13: 'modules' is empty");
  expect_refused("rules:\n - modules: [a, '']\n   format: keep", "r.yaml:2:17: an empty pattern");
  expect_refused("rules:\n - modules: [[a]]\n   format: keep",
                 "r.yaml:2:14: 'modules' is no list, map or nothing");
  expect_refused("rules:\n - {modules: " + std::string(201, 'a') + ", format: keep}",
                 "r.yaml:2:14: a pattern of over 200 bytes");
  std::string many = "rules:\n";
  for (int rule = 0; rule < 257; ++rule) many += " - {modules: a, format: keep}\n";
  expect_refused(many, "r.yaml:258:4: over 256 patterns");
  expect_refused("rules:\n - modules: a\n   format: int4",
                 "r.yaml:3:12: 'format' has no such value (expected keep,");
  expect_refused("rules:\n - modules: a\n   format:", "found nothing");
  expect_refused("rules:\n - modules: a\n   fromat: keep", "r.yaml:3:4: unknown key 'fromat'");
  expect_refused("rules:\n - {modules: a, format: nvfp4, quantize_input: yes}",
                 "'quantize_input' has no such value (expected true, false, found 'yes')");
  expect_refused("rules:\n - {modules: a, format: bf16, quantize_input: true}",
                 "r.yaml:2:47: only the formats nvfp4 and fp8 have a 'quantize_input'");
  expect_refused("rules:\n - {modules: a, format: fp8, weight_method: max}",
                 "r.yaml:2:45: only format nvfp4 has a 'weight_method'");
  expect_refused("rules:\n - {modules: a, format: keep, group_size: 16}",
                 "r.yaml:2:43: only format nvfp4 has a 'group_size'");
  expect_error(
      ErrorKind::kUnsupported, [] { parse("rules:\n - {modules: a, format: nvfp4, group_size: 32}"); },
      "r.yaml:2:44: NVFP4 has a scale per 16 values (expected 16, found '32')");
  expect_error(
      ErrorKind::kUnsupported, [] { parse("rules:\n - {modules: mtp.*, format: bf16}"); },
      "r.yaml:2:14: draft layers can only be kept");
}

TEST(RecipeErrors, YamlThatRecipesDoWithout) {
  expect_refused("rules: []\nrules: []", "r.yaml:2:1: key 'rules' appears twice");
  expect_refused("rules: &a []", "r.yaml:1:8: an anchor");
  expect_refused("a: &x [1, 1]\nb: [*x, *x]", "r.yaml:1:4: an anchor");
  expect_refused("rules: !!seq []", "r.yaml:1:8: a tag");
  expect_refused("rules: []\n---\nrules: []", "r.yaml: more than one document");
  expect_refused("[a]: b", "r.yaml:1:1: a key that is a list or a map");
  expect_refused("~: b", "r.yaml:1:1: a key that is no word");
  expect_refused("rules: [[[[[[[[[[]]]]]]]]]]", "nested deeper than 8");
  expect_refused("rules: [", "not valid YAML");
  expect_refused("rules:\n\t- a", "r.yaml:2:2: not valid YAML");
  expect_refused("rules: []\nname: a\x01", "r.yaml:2:8: not text in UTF-8");
  expect_refused("rules: []\nname: a\xff", "r.yaml:2:8: not text in UTF-8");
  std::string many = "rules: [";
  for (int value = 0; value < 5000; ++value) many += "a,";
  expect_refused(many + "a]", "over 4096 values");
}

TEST(Recipe, KvCacheOfDeepseekV4) {
  EXPECT_FALSE(check_kv_cache(KvCache::kNone));
  EXPECT_THAT(check_kv_cache(KvCache::kFp8Cast).value_or(""),
              ::testing::HasSubstr("choose the KV cache's format"));
  expect_error(
      ErrorKind::kUnsupported, [] { check_kv_cache(KvCache::kFp8); }, "--kv-cache fp8 ", "k_scale");
  expect_error(
      ErrorKind::kUnsupported, [] { check_kv_cache(KvCache::kNvfp4Cast); }, "--kv-cache nvfp4_cast");
}

}  // namespace
}  // namespace nibblecast
