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

// Routed experts alone; `names` are such as "layers.0.ffn.experts".
std::vector<ManifestModule> experts_alone(std::span<const std::string> names) {
  std::vector<ManifestModule> modules;
  for (const std::string& name : names)
    modules.push_back({.name = name, .format = WeightFormat::kNvfp4, .quantize_input = true});
  return modules;
}

Json nvfp4_experts_config(const Json& source_config, std::span<const std::string> names,
                          const std::string& version) {
  const std::vector<ManifestModule> modules = experts_alone(names);
  return output_config(source_config, {.modules = modules, .producer_version = version});
}

Json nvfp4_experts_hf_quant_config(std::span<const std::string> names, const std::string& version) {
  const std::vector<ManifestModule> modules = experts_alone(names);
  return output_hf_quant_config({.modules = modules, .producer_version = version});
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

TEST(Manifest, ExpertsAloneToTheByte) {
  EXPECT_EQ(
      nvfp4_experts_config({{"expert_dtype", "fp4"}, {"quantization_config", {{"fmt", "e4m3"}}}}, kModules,
                           "1")
          .dump(),
      R"({"expert_dtype":"fp4","quantization_config":{"activation_scheme":"dynamic","config_groups":{"group_0":)"
      R"({"input_activations":{"dynamic":false,"group_size":16,"num_bits":4,"type":"float"},"targets":["Linear"],)"
      R"("weights":{"dynamic":false,"group_size":16,"num_bits":4,"type":"float"}}},"fmt":"e4m3","group_size":16,)"
      R"("ignore":["*.attn.*","*.ffn.shared_experts.*","head","mtp.*"],"kv_cache_quant_algo":null,)"
      R"("moe_quant_algo":"NVFP4","producer":{"name":"nibblecast","version":"1"},"quant_algo":"MIXED_PRECISION",)"
      R"("quant_method":"fp8","quantized_layers":{"layers.0.ffn.experts":{"group_size":16,"quant_algo":"NVFP4"},)"
      R"("layers.1.ffn.experts":{"group_size":16,"quant_algo":"NVFP4"}},"weight_block_size":[128,128]}})");
  EXPECT_EQ(
      nvfp4_experts_hf_quant_config(kModules, "1").dump(),
      R"({"producer":{"name":"nibblecast","version":"1"},"quantization":{"exclude_modules":["*.attn.*",)"
      R"("*.ffn.shared_experts.*","head","mtp.*"],"group_size":16,"kv_cache_quant_algo":null,)"
      R"("quant_algo":"MIXED_PRECISION","quantized_layers":{"layers.0.ffn.experts":{"group_size":16,)"
      R"("quant_algo":"NVFP4"},"layers.1.ffn.experts":{"group_size":16,"quant_algo":"NVFP4"}}}})");
}

const Json kFp8Source = {
    {"expert_dtype", "fp4"},
    {"quantization_config",
     {{"quant_method", "fp8"}, {"scale_fmt", "ue8m0"}, {"weight_block_size", {128, 128}}}}};

Json mixed_quantization(const std::vector<ManifestModule>& modules) {
  return output_config(kFp8Source, {.modules = modules, .producer_version = "1"})["quantization_config"];
}

TEST(Manifest, MixedFormatsHaveAGroupEach) {
  const Json found = mixed_quantization({{"layers.0.attn.wq_a", WeightFormat::kFp8, true, true},
                                         {"layers.0.attn.wkv", WeightFormat::kNvfp4, false, true},
                                         {"layers.0.ffn.experts", WeightFormat::kNvfp4, true, false}});
  EXPECT_TRUE(found["quantized_layers"] ==
              parse_json(R"({"layers.0.attn.wkv": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
                             "layers.0.attn.wq_a": {"quant_algo": "FP8"},
                             "layers.0.ffn.experts": {"quant_algo": "NVFP4", "group_size": 16}})",
                         ""));
  const Json& groups = found["config_groups"];
  EXPECT_EQ(groups.size(), 3u);
  EXPECT_FALSE(groups["group_0"].contains("input_activations"));
  EXPECT_EQ(groups["group_0"]["targets"].dump(), R"(["layers.0.attn.wkv"])");
  EXPECT_EQ(groups["group_1"].dump(),
            R"({"input_activations":{"dynamic":false,"num_bits":8,"type":"float"},)"
            R"("targets":["layers.0.attn.wq_a"],"weights":{"dynamic":false,"num_bits":8,"type":"float"}})");
  EXPECT_EQ(found["quant_method"].get<std::string>(), "fp8");
  EXPECT_EQ(found["scale_fmt"].get<std::string>(), "ue8m0");
}

TEST(Manifest, IgnoreNamesLayersWhereOthersAreQuantized) {
  const Json found = mixed_quantization({{"embed"},
                                         {"layers.0.attn.wq_a"},
                                         {"layers.0.attn.indexer.wq_b"},
                                         {"layers.0.ffn.experts", WeightFormat::kNvfp4, true},
                                         {"layers.1.attn.wq_a", WeightFormat::kNvfp4, true, true},
                                         {"layers.1.attn.indexer.wq_b"},
                                         {"layers.1.ffn.experts"}});
  EXPECT_EQ(found["ignore"].dump(),
            R"(["*.attn.indexer.*","embed","layers.0.attn.wq_a","layers.1.ffn.experts","mtp.*"])");
  EXPECT_EQ(found["moe_quant_algo"].get<std::string>(), "NVFP4");
}

TEST(Manifest, WhatLeavesFp8IsNotConverted) {
  const std::vector<ManifestModule> modules = {{"layers.0.attn.wq_a", WeightFormat::kBf16, false, true},
                                               {"layers.0.attn.wkv", WeightFormat::kFp8Block, false, true},
                                               {"layers.0.ffn.gate", WeightFormat::kF32, false, false},
                                               {"layers.0.ffn.experts", WeightFormat::kBf16}};
  const Manifest manifest{.modules = modules, .producer_version = "1"};
  const Json config = output_config(kFp8Source, manifest);
  EXPECT_EQ(
      config.dump(),
      R"({"expert_dtype":"bfloat16","quantization_config":{"modules_to_not_convert":["layers.0.attn.wq_a"],)"
      R"("quant_method":"fp8","scale_fmt":"ue8m0","weight_block_size":[128,128]}})");
  EXPECT_TRUE(output_hf_quant_config(manifest).is_null());
}

TEST(Manifest, ExpertDtypeFollowsTheExperts) {
  const auto dtype = [](const Json& source, WeightFormat format) {
    const std::vector<ManifestModule> modules = {{"layers.0.ffn.experts", format, true}};
    return output_config(source, {.modules = modules, .producer_version = "1"})
        .value("expert_dtype", "absent");
  };
  const Json base = {{"expert_dtype", "fp8"}};
  EXPECT_EQ(dtype(base, WeightFormat::kNvfp4), "fp4");
  EXPECT_EQ(dtype(base, WeightFormat::kKeep), "fp8");
  EXPECT_EQ(dtype(kFp8Source, WeightFormat::kFp8Block), "fp8");
  EXPECT_EQ(dtype(Json::object(), WeightFormat::kNvfp4), "absent");
  EXPECT_EQ(dtype(Json::object(), WeightFormat::kKeep), "absent");
}

TEST(Manifest, Fp8KvCacheIsMetadataOnly) {
  const std::vector<ManifestModule> modules = {{"layers.0.ffn.experts", WeightFormat::kNvfp4, true}};
  const Manifest manifest{.modules = modules, .fp8_kv_cache = true, .producer_version = "1"};
  const Json quantization = output_config(kFp8Source, manifest)["quantization_config"];
  EXPECT_EQ(quantization["kv_cache_scheme"].dump(), R"({"dynamic":false,"num_bits":8,"type":"float"})");
  EXPECT_TRUE(quantization["kv_cache_quant_algo"].is_null());
  EXPECT_EQ(output_hf_quant_config(manifest)["quantization"]["kv_cache_quant_algo"].get<std::string>(),
            "FP8");
}

TEST(Manifest, DequantizedConfigSpeaksOfNoQuantization) {
  Json source = kFp8Source;
  source["torch_dtype"] = "bfloat16";
  source["x"] = 1;
  EXPECT_EQ(dequantized_config(source, "float32").dump(), R"({"torch_dtype":"float32","x":1})");
  EXPECT_EQ(dequantized_config({{"dtype", "bfloat16"}}, "float32").dump(), R"({"dtype":"float32"})");
  const Json nested = {{"text_config",
                        {{"quantization_config", Json::object()},
                         {"expert_dtype", "fp4"},
                         {"dtype", "fp8"},
                         {"parts", Json::array({{{"compression_config", 1}, {"y", 2}}})}}},
                       {"vision_config", {{"torch_dtype", "float32"}, {"dtype", 7}}}};
  EXPECT_EQ(dequantized_config(nested, "bfloat16").dump(),
            R"({"text_config":{"dtype":"bfloat16","parts":[{"y":2}]},"torch_dtype":"bfloat16",)"
            R"("vision_config":{"dtype":7,"torch_dtype":"float32"}})");
  EXPECT_EQ(dequantized_config(Json::object(), "bfloat16").dump(), R"({"torch_dtype":"bfloat16"})");
  expect_error(
      ErrorKind::kBadInput, [] { dequantized_config(3, "bfloat16"); }, "config.json");
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
