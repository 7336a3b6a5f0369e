#include <gmock/gmock.h>

#include <map>
#include <set>

#include "base/file.h"
#include "model/deepseek_v4_groups.h"
#include "model/deepseek_v4_modules.h"
#include "model/presets.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;

DeepseekV4Config preset(std::string_view name) {
  return DeepseekV4Config::parse(preset_config(name), std::string(name));
}

TEST(DeepseekV4Modules, HubNames) {
  const std::pair<const char*, const char*> names[] = {
      {"embed", "model.embed_tokens"},
      {"head", "lm_head"},
      {"layers.60.attn.wo_a", "model.layers.60.self_attn.o_a_proj"},
      {"layers.2.attn.indexer.compressor.wgate", "model.layers.2.self_attn.compressor.indexer.gate_proj"},
      {"layers.0.ffn.gate", "model.layers.0.mlp.gate"},
      {"layers.0.ffn.shared_experts.w2", "model.layers.0.mlp.shared_experts.down_proj"},
      {"layers.7.ffn.experts.383.w3", "model.layers.7.mlp.experts.383.up_proj"},
  };
  for (const auto& [official, hub] : names) EXPECT_EQ(hub_module_name(official), hub) << official;
  for (const char* other : {"", "norm", "layers.", "layers.x.attn.wq_a", "layers.1.attn", "layers..attn.wq_a",
                            "layers.1.ffn.experts.w1", "layers.1.ffn.experts.2.w4", "layers.1.ffn.experts.2.",
                            "layers.1.ffn.shared_experts.w", "mtp.0.attn.wq_a", "layers.1.attn_norm"}) {
    EXPECT_EQ(hub_module_name(other), "") << other;
  }
}

TEST(DeepseekV4Modules, HubTensors) {
  const DeepseekV4Config config = preset("v4-tiny");
  const std::pair<const char*, const char*> names[] = {
      {"norm.weight", "model.norm.weight"},
      {"head.weight", "lm_head.weight"},
      {"hc_head_base", "model.hc_head.hc_base"},
      {"layers.3.attn_norm.weight", "model.layers.3.input_layernorm.weight"},
      {"layers.3.hc_ffn_scale", "model.layers.3.ffn_hc.scale"},
      {"layers.3.attn.attn_sink", "model.layers.3.self_attn.sinks"},
      {"layers.3.attn.compressor.ape", "model.layers.3.self_attn.compressor.position_bias"},
      {"layers.2.attn.indexer.compressor.norm.weight",
       "model.layers.2.self_attn.compressor.indexer.kv_norm.weight"},
      {"layers.2.ffn.gate.bias", "model.layers.2.mlp.gate.e_score_correction_bias"},
      {"layers.2.ffn.shared_experts.w3.weight", "model.layers.2.mlp.shared_experts.up_proj.weight"},
  };
  for (const auto& [official, hub] : names) {
    const auto found = hub_tensor(config, official);
    ASSERT_TRUE(found) << official;
    EXPECT_EQ(found->name, hub);
    EXPECT_FALSE(found->whole) << official;
  }
  const auto up = hub_tensor(config, "layers.1.ffn.experts.5.w3.weight");
  ASSERT_TRUE(up);
  EXPECT_EQ(up->name, "model.layers.1.mlp.experts.gate_up_proj");
  EXPECT_EQ(up->part, 11u);
  EXPECT_EQ(up->parts, 16u);
  EXPECT_EQ(up->whole, (Shape{8, 2 * config.moe_intermediate_size, config.hidden_size}));
  for (const char* other : {"", "norm", "mtp.0.norm.weight", "layers.0.ffn.experts.8.w1.weight",
                            "layers.0.attn.wq_a.scale", "layers.x.attn_norm.weight", "layers.0.w1.weight"})
    EXPECT_FALSE(hub_tensor(config, other)) << other;
}

TEST(DeepseekV4Modules, EveryTensorOfTheModelHasItsPlaceInTransformers) {
  const DeepseekV4Config config = preset("v4-tiny");
  std::map<std::string, std::set<uint64_t>> parts;
  std::map<std::string, uint64_t> expected;
  const auto add = [&](const std::vector<ModelTensor>& tensors) {
    for (const ModelTensor& tensor : tensors) {
      const bool is_module = tensor.storage == Storage::kFp8Block || tensor.storage == Storage::kExpert;
      const auto hub = hub_tensor(config, tensor.name + (is_module ? ".weight" : ""));
      ASSERT_TRUE(hub) << tensor.name;
      EXPECT_TRUE(parts[hub->name].insert(hub->part).second) << tensor.name;
      expected[hub->name] = hub->parts;
      const Shape whole = hub->whole.value_or(tensor.shape);
      EXPECT_EQ(*element_count(whole), *element_count(tensor.shape) * hub->parts) << tensor.name;
    }
  };
  add(global_tensors(config));
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) add(layer_tensors(config, layer));
  for (const auto& [name, found] : parts) {
    EXPECT_EQ(found.size(), expected[name]) << name;
    EXPECT_EQ(*found.rbegin() + 1, expected[name]) << name;
  }
}

TEST(DeepseekV4Modules, EveryMatrixOfALayerIsAModuleWithTwoNames) {
  for (const std::string_view name : preset_names()) {
    const DeepseekV4Config config = preset(name);
    std::set<std::string> names;
    for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      const std::vector<WeightModule> modules = layer_modules(config, layer);
      const uint32_t ratio = config.compress_ratios[layer];
      // 5 in attention, router, 3 of the shared expert, 3 an expert; 2 of the compressor; 4 of the indexer.
      EXPECT_EQ(modules.size(),
                9 + 3 * config.n_routed_experts + (ratio != 0 ? 2 : 0) + (ratio == 4 ? 4 : 0));
      for (const WeightModule& module : modules) {
        EXPECT_TRUE(names.insert(module.name).second) << module.name;
        EXPECT_TRUE(module.hub_name.starts_with("model.layers.") && names.insert(module.hub_name).second)
            << module.name << " " << module.hub_name;
      }
    }
  }
  const std::vector<WeightModule> global = global_modules(preset("v4-tiny"));
  ASSERT_EQ(global.size(), 2u);
  EXPECT_EQ(global[0].kind, ModuleKind::kEmbedding);
  EXPECT_EQ(global[1].kind, ModuleKind::kHead);
}

TEST(DeepseekV4Modules, GroupsOfTheThreeKindsOfLayers) {
  const DeepseekV4Config config = preset("v4-flash");
  const auto sliding = fused_groups(config, 0), csa = fused_groups(config, 2), hca = fused_groups(config, 3);
  EXPECT_EQ(sliding.size(), 2 + config.n_routed_experts);
  EXPECT_THAT(sliding[0], ElementsAre("layers.0.attn.wq_a", "layers.0.attn.wkv"));
  EXPECT_THAT(sliding[1], ElementsAre("layers.0.ffn.shared_experts.w1", "layers.0.ffn.shared_experts.w3"));
  EXPECT_THAT(sliding.back(), ElementsAre("layers.0.ffn.experts.255.w1", "layers.0.ffn.experts.255.w3"));
  EXPECT_THAT(hca[0], ElementsAre("layers.3.attn.wq_a", "layers.3.attn.wkv", "layers.3.attn.compressor.wkv",
                                  "layers.3.attn.compressor.wgate"));
  EXPECT_EQ(csa[0].size(), 7u);
  EXPECT_THAT(csa[1], ElementsAre("layers.2.attn.wq_b", "layers.2.attn.indexer.wq_b"));
}

TEST(DeepseekV4Modules, GroupsNameModulesOnce) {
  const DeepseekV4Config config = preset("v4-tiny");
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::set<std::string> modules, grouped;
    for (const WeightModule& module : layer_modules(config, layer)) modules.insert(module.name);
    for (const auto& group : fused_groups(config, layer)) {
      for (const std::string& name : group) {
        EXPECT_TRUE(modules.contains(name)) << name;
        EXPECT_TRUE(grouped.insert(name).second) << name;
      }
    }
  }
}

// Members of a group have equal scales in ModelOpt's own export of the model.
TEST(DeepseekV4Modules, GroupsAreThoseOfModelOpt) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  const auto read = [](const std::filesystem::path& path) {
    return parse_json(read_text(system_files(), path, 1 << 20), path.string());
  };
  const DeepseekV4Config config = DeepseekV4Config::parse(read(source / "config.json"), "config.json");
  const Json tensors = read(modelopt / "nvfp4-full.json");
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const auto& group : fused_groups(config, layer)) {
      for (const std::string& name : group) {
        for (const char* scale : {".weight_scale_2", ".input_scale"})
          EXPECT_TRUE(tensors.at(name + scale) == tensors.at(group[0] + scale)) << name << scale;
      }
    }
  }
}

}  // namespace
}  // namespace nibblecast
