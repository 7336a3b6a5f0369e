#include "checkpoint/manifest.h"

#include <vector>

#include "base/file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;

const std::vector<std::string> kModules = {"layers.0.ffn.experts", "layers.1.ffn.experts"};

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_text(system_files(), path, 1'000'000), path.string());
}

void expect_nibblecast(const Json& producer) {
  EXPECT_EQ(producer, (Json{{"name", "nibblecast"}, {"version", "1.2.3"}}));
}

// `golden` holds what ModelOpt's script wrote; only the producer differs.
void expect_same_as_modelopt(const Json& source_config, const std::vector<std::string>& modules,
                             const Json& golden_config, const Json& golden_hf_quant_config) {
  Json config = nvfp4_experts_config(source_config, modules, "1.2.3");
  expect_nibblecast(config["quantization_config"]["producer"]);
  config["quantization_config"]["producer"] = golden_config["quantization_config"]["producer"];
  EXPECT_EQ(config, golden_config) << Json::diff(config, golden_config).dump(1);
  Json hf_quant_config = nvfp4_experts_hf_quant_config(modules, "1.2.3");
  expect_nibblecast(hf_quant_config["producer"]);
  hf_quant_config["producer"] = golden_hf_quant_config["producer"];
  EXPECT_EQ(hf_quant_config, golden_hf_quant_config)
      << Json::diff(hf_quant_config, golden_hf_quant_config).dump(1);
}

TEST(Manifest, EqualsModelOptsGolden) {
  const std::filesystem::path golden =
      std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/checkpoint/golden";
  const Json all = read_json(golden / "modelopt_manifest.json");
  expect_same_as_modelopt(all["source_config"], all["modules"], all["config"], all["hf_quant_config"]);
}

TEST(Manifest, EqualsModelOptsForTinyV4) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  std::vector<std::string> modules;
  for (int layer = 0; layer < 6; ++layer)
    modules.push_back("layers." + std::to_string(layer) + ".ffn.experts");
  expect_same_as_modelopt(read_json(source / "config.json"), modules, read_json(modelopt / "config.json"),
                          read_json(modelopt / "hf_quant_config.json"));
}

TEST(Manifest, UnknownFieldsSurvive) {
  const Json source = {{"x", {1, nullptr}}, {"quantization_config", {{"y", 2.5}, {"scale_fmt", "ue8m0"}}}};
  const Json config = nvfp4_experts_config(source, kModules, "1");
  EXPECT_EQ(config["x"], source["x"]);
  EXPECT_EQ(config["quantization_config"]["y"], 2.5);
  EXPECT_EQ(config["quantization_config"]["scale_fmt"], "ue8m0");
}

TEST(Manifest, FieldsThatMisleadEnginesDoNot) {
  const Json source = {{"quantization_config",
                        {{"exclude_modules", {"a"}},
                         {"quantization", {{"quant_algo", "NVFP4"}}},
                         {"ignore", {"*experts*"}},
                         {"kv_cache_quant_algo", "FP8"},
                         {"quant_method", "modelopt"}}}};
  const Json config = nvfp4_experts_config(source, kModules, "1");
  const Json& quantization = config["quantization_config"];
  EXPECT_FALSE(quantization.contains("exclude_modules"));
  EXPECT_FALSE(quantization.contains("quantization"));
  EXPECT_EQ(quantization["ignore"], (Json{"*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"}));
  EXPECT_TRUE(quantization["kv_cache_quant_algo"].is_null());
  EXPECT_EQ(quantization["quant_method"], "fp8");
}

TEST(Manifest, DefaultsAreAddedOnlyWhereMissing) {
  const Json bare = nvfp4_experts_config(Json::object(), kModules, "1")["quantization_config"];
  EXPECT_EQ(bare["activation_scheme"], "dynamic");
  EXPECT_EQ(bare["weight_block_size"], (Json{128, 128}));
  const Json source = {
      {"quantization_config", {{"weight_block_size", {32, 32}}, {"activation_scheme", "static"}}}};
  const Json kept = nvfp4_experts_config(source, kModules, "1")["quantization_config"];
  EXPECT_EQ(kept["activation_scheme"], "static");
  EXPECT_EQ(kept["weight_block_size"], (Json{32, 32}));
}

TEST(Manifest, RefusesConfigsThatAreNoObjects) {
  expect_error(
      ErrorKind::kBadInput, [] { nvfp4_experts_config(Json::array(), kModules, "1"); }, "config.json");
  const Json source = {{"quantization_config", "fp8"}};
  expect_error(
      ErrorKind::kBadInput, [&] { nvfp4_experts_config(source, kModules, "1"); }, "'quantization_config'",
      "found string");
}

TEST(OutputIndex, KeepsMetadataWithATrueSize) {
  const Json index =
      output_index({{"total_size", 3}, {"x", "y"}}, {{"a", "1.safetensors"}}, uint64_t{1} << 40);
  EXPECT_EQ(index.dump(),
            R"({"metadata":{"total_size":1099511627776,"x":"y"},"weight_map":{"a":"1.safetensors"}})");
  EXPECT_EQ(output_index(Json::object(), {}, 7).dump(), R"({"metadata":{"total_size":7},"weight_map":{}})");
}

}  // namespace
}  // namespace nibblecast
