#include <gmock/gmock.h>

#include <map>
#include <set>

#include "base/file.h"
#include "model/families/deepseek_v4/modules.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"
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

Model model_of(std::string_view name) { return read_model(preset_config(name), std::string(name)); }

TEST(DeepseekV4Modules, EveryMatrixOfALayerIsAModuleWithTwoNames) {
  for (const char* name : {"v4-pro", "v4-flash", "v4-tiny"}) {
    const Model model = model_of(name);
    const auto& config = std::get<DeepseekV4Config>(model.spec);
    std::set<std::string> names;
    for (uint64_t layer = 0; layer < model.layers(); ++layer) {
      const std::vector<WeightModule>& modules = model.table.layers[layer].modules;
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
    ASSERT_EQ(model.table.globals.modules.size(), 2u);
    EXPECT_EQ(model.table.globals.modules[0].kind, ModuleKind::kEmbedding);
    EXPECT_EQ(model.table.globals.modules[1].kind, ModuleKind::kHead);
  }
}

TEST(DeepseekV4Modules, TheTableHoldsEveryTensorOnce) {
  const Model model = model_of("v4-tiny");
  const auto& config = std::get<DeepseekV4Config>(model.spec);
  for (uint64_t layer = 0; layer < model.layers(); ++layer) {
    std::set<std::string> expected, found;
    for (const ModelTensor& tensor : layer_tensors(config, layer)) {
      const bool is_module = tensor.storage == Storage::kFp8Block || tensor.storage == Storage::kExpert;
      expected.insert(tensor.name + (is_module ? ".weight" : ""));
    }
    const LayerTable& table = model.table.layers[layer];
    for (const WeightModule& module : table.modules) {
      EXPECT_TRUE(found.insert(module.name + ".weight").second) << module.name;
      EXPECT_EQ(table.find(module.id), &module) << "an id of its own: " << module.name;
      EXPECT_EQ(module.id.layer, static_cast<int32_t>(layer));
    }
    for (const PlainTensor& tensor : table.plain)
      EXPECT_TRUE(found.insert(tensor.name).second) << tensor.name;
    EXPECT_EQ(found, expected);
    EXPECT_EQ(table.experts, config.n_routed_experts);
    EXPECT_EQ(table.top, config.num_experts_per_tok);
  }
}

// ---- taps: linears that engines fuse share one ----

// Names of the modules with this tap, of one expert where each has its own.
std::vector<std::string> fed_by(const LayerTable& layer, std::string_view tap, int32_t expert = -1) {
  std::vector<std::string> names;
  for (const WeightModule& module : layer.modules) {
    const Tap* found = layer.tap_of(module);
    if (found == nullptr || found->name != tap || module.id.expert != expert) continue;
    names.push_back(module.name);
  }
  return names;
}

TEST(DeepseekV4Taps, FeedTheThreeKindsOfLayers) {
  const Model model = model_of("v4-flash");
  const LayerTable &sliding = model.table.layers[0], &csa = model.table.layers[2],
                   &hca = model.table.layers[3];
  EXPECT_THAT(fed_by(sliding, "attn.in"), ElementsAre("layers.0.attn.wq_a", "layers.0.attn.wkv"));
  EXPECT_THAT(fed_by(sliding, "ffn.in"), ElementsAre("layers.0.ffn.gate", "layers.0.ffn.shared_experts.w1",
                                                     "layers.0.ffn.shared_experts.w3"));
  EXPECT_THAT(fed_by(sliding, "shared.mid"), ElementsAre("layers.0.ffn.shared_experts.w2"));
  EXPECT_THAT(fed_by(sliding, "experts.in", 255),
              ElementsAre("layers.0.ffn.experts.255.w1", "layers.0.ffn.experts.255.w3"));
  EXPECT_THAT(fed_by(sliding, "experts.mid", 255), ElementsAre("layers.0.ffn.experts.255.w2"));
  EXPECT_THAT(fed_by(hca, "attn.in"),
              ElementsAre("layers.3.attn.wq_a", "layers.3.attn.wkv", "layers.3.attn.compressor.wkv",
                          "layers.3.attn.compressor.wgate"));
  EXPECT_EQ(fed_by(csa, "attn.in").size(), 7u);
  EXPECT_THAT(fed_by(csa, "attn.q_rank"), ElementsAre("layers.2.attn.wq_b", "layers.2.attn.indexer.wq_b"));
  EXPECT_THAT(fed_by(csa, "attn.out"), ElementsAre("layers.2.attn.wo_a"));
  EXPECT_THAT(fed_by(csa, "attn.out_rank"), ElementsAre("layers.2.attn.wo_b"));
}

TEST(DeepseekV4Taps, EveryModuleOfALayerHasOne) {
  const Model model = model_of("v4-tiny");
  for (const LayerTable& layer : model.table.layers) {
    std::set<uint16_t> seen;
    for (const WeightModule& module : layer.modules) {
      ASSERT_LT(module.tap, layer.taps.size()) << module.name;
      EXPECT_EQ(layer.taps[module.tap].experts, module.is_routed_expert() ? layer.experts : 0) << module.name;
      seen.insert(module.tap);
    }
    EXPECT_EQ(seen.size(), layer.taps.size()) << "a tap that feeds nothing";
  }
}

// Linears of one tap, and of one expert, have equal scales in ModelOpt's own export of the model.
TEST(DeepseekV4Taps, AreThoseThatModelOptFuses) {
  SKIP_WITHOUT_SHARED_MODEL(source, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  const auto read = [](const std::filesystem::path& path) {
    return parse_json(read_text(system_files(), path, 1 << 20), path.string());
  };
  const Model model = read_model(read(source / "config.json"), "config.json");
  const Json tensors = read(modelopt / "nvfp4-full.json");
  size_t compared = 0;
  for (const LayerTable& layer : model.table.layers) {
    std::map<std::pair<uint16_t, int32_t>, std::string> first;
    for (const WeightModule& module : layer.modules) {
      if (!tensors.contains(module.name + ".weight_scale_2")) continue;  // kept
      const auto [group, is_new] = first.try_emplace({module.tap, module.id.expert}, module.name);
      if (is_new) continue;
      for (const char* scale : {".weight_scale_2", ".input_scale"})
        EXPECT_TRUE(tensors.at(module.name + scale) == tensors.at(group->second + scale))
            << module.name << scale;
      ++compared;
    }
  }
  EXPECT_GT(compared, 100u);
}

}  // namespace
}  // namespace nibblecast
