#include "model/decoder_family.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "checkpoint/checkpoint.h"
#include "family_models.h"
#include "model/families/decoder_presets.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;

// The least that a family needs.
Json minimal(const std::string& model_type) {
  return {{"model_type", model_type}, {"vocab_size", 64},         {"hidden_size", 32},
          {"intermediate_size", 48},  {"num_hidden_layers", 2},   {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"num_experts_per_tok", 2}, {"num_experts", 4},
          {"n_routed_experts", 4},    {"num_local_experts", 4},   {"moe_intermediate_size", 16}};
}
Json with(Json config, const Json& changes) {
  config.update(changes);
  return config;
}
Model read(const std::string& model_type, const Json& changes = Json::object()) {
  return read_model(with(minimal(model_type), changes), "config.json");
}
DecoderSpec spec(const Model& model) { return std::get<DecoderSpec>(model.spec); }
GqaSpec attention(const Model& model, uint64_t layer = 0) {
  return std::get<GqaSpec>(spec(model).layers[layer].mixer);
}
MoeSpec moe(const Model& model, uint64_t layer = 1) {
  return std::get<MoeSpec>(spec(model).layers[layer].ffn);
}

Json minimal_latent(const std::string& model_type) {
  return with(minimal(model_type), {{"num_key_value_heads", 4},
                                    {"n_group", 1},
                                    {"topk_group", 1},
                                    {"first_k_dense_replace", 1},
                                    {"q_lora_rank", 24},
                                    {"kv_lora_rank", 12},
                                    {"qk_nope_head_dim", 12},
                                    {"qk_rope_head_dim", 8},
                                    {"v_head_dim", 16},
                                    {"index_topk", 2048},
                                    {"index_n_heads", 3},
                                    {"index_head_dim", 10}});
}
Model read_latent(const std::string& model_type, const Json& changes = Json::object()) {
  return read_model(with(minimal_latent(model_type), changes), "config.json");
}
MlaSpec latent(const Model& model, uint64_t layer = 0) {
  return std::get<MlaSpec>(spec(model).layers[layer].mixer);
}

void expect_refused(ErrorKind kind, const std::string& model_type, const Json& changes,
                    const std::string& key, const std::string& found = "") {
  SCOPED_TRACE(changes.dump());
  expect_error(
      kind, [&] { read(model_type, changes); }, "config.json", "'" + key, found);
}

// Every tensor of a table.
std::map<std::string, Shape> shapes(const ModelTable& table) {
  std::map<std::string, Shape> found;
  const auto add = [&](const LayerTable& layer) {
    for (const WeightModule& module : layer.modules) found[module.name + ".weight"] = module.shape;
    for (const PlainTensor& plain : layer.plain) found[plain.name] = plain.shape;
  };
  add(table.globals);
  for (const LayerTable& layer : table.layers) add(layer);
  return found;
}

// The same, of a release with stacked experts.
std::map<std::string, Shape> stored_shapes(const ModelTable& table) {
  std::map<std::string, Shape> found = shapes(table);
  for (const LayerTable& layer : table.layers) {
    if (layer.stacks.down.empty()) continue;
    Shape up, down;
    for (const WeightModule& module : layer.modules) {
      if (!module.is_routed_expert()) continue;
      (module.id.role == Role::kDown ? down : up) = module.shape;
      found.erase(module.name + ".weight");
    }
    found[layer.stacks.gate_up] = {layer.experts, 2 * up[0], up[1]};
    found[layer.stacks.down] = {layer.experts, down[0], down[1]};
  }
  return found;
}

const std::vector<std::string> kAll = {"llama",   "mistral",  "qwen2",      "qwen3", "qwen3_moe",
                                       "mixtral", "glm4_moe", "minimax_m2", "hy_v3"};

class SharedModel : public ::testing::TestWithParam<const char*> {};

TEST_P(SharedModel, TableIsWhatTransformersSaved) {
  SKIP_WITHOUT_SHARED_MODEL(folder, std::string("families/") + GetParam());
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  std::map<std::string, Shape> stored;
  for (const Tensor& tensor : checkpoint.tensors())
    if (!tensor.name.ends_with("_scale_inv")) stored[tensor.name] = tensor.shape;
  const Model model = read_model(checkpoint.config(), "config.json");
  EXPECT_EQ(shapes(model.table), stored);
  EXPECT_EQ(model.family, GetParam());
}
INSTANTIATE_TEST_SUITE_P(Families, SharedModel,
                         ::testing::Values("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "glm4_moe",
                                           "deepseek_v3"));

// ---- tables ----

TEST(DecoderTable, DenseLayer) {
  const Model model = read("llama");
  const LayerTable& layer = model.table.layers[1];
  std::vector<std::string> names;
  for (const WeightModule& module : layer.modules) {
    names.push_back(module.name);
    EXPECT_EQ(module.id.layer, 1);
    EXPECT_EQ(module.id.expert, -1);
    EXPECT_EQ(module.hub_name, "");
    EXPECT_EQ(layer.find(module.id), &module);
  }
  const std::string prefix = "model.layers.1.";
  EXPECT_EQ(names, (std::vector<std::string>{prefix + "self_attn.q_proj", prefix + "self_attn.k_proj",
                                             prefix + "self_attn.v_proj", prefix + "self_attn.o_proj",
                                             prefix + "mlp.gate_proj", prefix + "mlp.up_proj",
                                             prefix + "mlp.down_proj"}));
  EXPECT_EQ(layer.experts, 0u);
  EXPECT_EQ(layer.mlps(), 1u);
  EXPECT_EQ(layer.find({.layer = 1, .role = Role::kK})->shape, (Shape{16, 32}));
  EXPECT_EQ(layer.find({.layer = 1, .role = Role::kDown})->shape, (Shape{32, 48}));
  EXPECT_TRUE(layer.find({.layer = 1, .role = Role::kDown})->streams());
  EXPECT_EQ(layer.find_plain(Role::kInputNorm)->name, prefix + "input_layernorm.weight");
  EXPECT_EQ(layer.find_plain(Role::kFfnNorm)->shape, (Shape{32}));
}

TEST(DecoderTable, TapsOfADenseLayer) {
  const Model model = read("llama");
  const LayerTable& layer = model.table.layers[1];
  std::map<Role, std::string> taps;
  for (const WeightModule& module : layer.modules) taps[module.id.role] = layer.tap_of(module)->name;
  EXPECT_EQ(taps, (std::map<Role, std::string>{{Role::kQ, "attn.in"},
                                               {Role::kK, "attn.in"},
                                               {Role::kV, "attn.in"},
                                               {Role::kO, "attn.out"},
                                               {Role::kGate, "ffn.in"},
                                               {Role::kUp, "ffn.in"},
                                               {Role::kDown, "ffn.mid"}}));
  EXPECT_EQ(layer.taps[0].norm, "model.layers.1.input_layernorm.weight");
  EXPECT_EQ(layer.taps[0].width, 32u);
  EXPECT_FALSE(layer.taps[0].norm_plus_one);
  EXPECT_EQ(layer.taps[1].norm, "");
  EXPECT_EQ(layer.taps[4].norm, "model.layers.1.post_attention_layernorm.weight");
}

TEST(DecoderTable, MoeLayerOfEveryNaming) {
  struct Names {
    std::string model_type, router, router_bias, shared, gate;
  };
  const Names all[] = {
      {"qwen3_moe", "mlp.gate", "", "", "mlp.experts.3.gate_proj"},
      {"mixtral", "block_sparse_moe.gate", "", "", "block_sparse_moe.experts.3.w1"},
      {"glm4_moe", "mlp.gate", "mlp.gate.e_score_correction_bias", "mlp.shared_experts.gate_proj",
       "mlp.experts.3.gate_proj"},
      {"minimax_m2", "block_sparse_moe.gate", "block_sparse_moe.e_score_correction_bias", "",
       "block_sparse_moe.experts.3.w1"},
      {"hy_v3", "mlp.router.gate", "mlp.expert_bias", "mlp.shared_mlp.gate_proj", "mlp.experts.3.gate_proj"}};
  for (const Names& names : all) {
    SCOPED_TRACE(names.model_type);
    const Model model = read(names.model_type);
    const LayerTable& layer = model.table.layers[1];
    const std::string prefix = "model.layers.1.";
    EXPECT_EQ(layer.find({.layer = 1, .role = Role::kRouter})->name, prefix + names.router);
    EXPECT_EQ(layer.find({.layer = 1, .role = Role::kRouter})->kind, ModuleKind::kRouter);
    EXPECT_EQ(layer.find({.layer = 1, .expert = 3, .role = Role::kGate})->name, prefix + names.gate);
    const PlainTensor* bias = layer.find_plain(Role::kRouterBias);
    EXPECT_EQ(bias == nullptr ? "" : bias->name, names.router_bias.empty() ? "" : prefix + names.router_bias);
    const WeightModule* shared = layer.find({.layer = 1, .shared = true, .role = Role::kGate});
    EXPECT_EQ(shared == nullptr ? "" : shared->name, names.shared.empty() ? "" : prefix + names.shared);
    EXPECT_EQ(layer.experts, 4u);
    EXPECT_EQ(layer.top, 2u);
    EXPECT_EQ(layer.modules.back().id, (ModuleId{.layer = 1, .expert = 3, .role = Role::kDown}));
  }
}

TEST(DecoderTable, HubNamesAreTransformersOwn) {
  const Model mixtral = read("mixtral"), hy3 = read("hy_v3");
  const ModuleIndex of_mixtral(mixtral.table), of_hy3(hy3.table);
  EXPECT_EQ(of_mixtral.find("model.layers.1.mlp.experts.3.down_proj")->name,
            "model.layers.1.block_sparse_moe.experts.3.w2");
  EXPECT_EQ(of_mixtral.find("model.layers.1.mlp.gate")->id.role, Role::kRouter);
  EXPECT_EQ(of_hy3.find("model.layers.1.mlp.shared_experts.up_proj")->name,
            "model.layers.1.mlp.shared_mlp.up_proj");
  EXPECT_EQ(hy3.table.layers[1].find_plain(Role::kRouterBias)->hub_name,
            "model.layers.1.mlp.e_score_correction_bias");
}

TEST(DecoderTable, TapsOfAMoeLayer) {
  const Model model = read("glm4_moe");
  const LayerTable& layer = model.table.layers[1];
  const auto tap = [&](const ModuleId& id) { return *layer.tap_of(*layer.find(id)); };
  const Tap in = tap({.layer = 1, .expert = 2, .role = Role::kUp});
  EXPECT_EQ(in.name, "experts.in");
  EXPECT_EQ(in.experts, 4u);
  EXPECT_FALSE(in.weighted);
  EXPECT_EQ(in.norm, "model.layers.1.post_attention_layernorm.weight");
  const Tap mid = tap({.layer = 1, .expert = 2, .role = Role::kDown});
  EXPECT_EQ(mid.name, "experts.mid");
  EXPECT_TRUE(mid.weighted);
  EXPECT_EQ(mid.norm, "");
  EXPECT_EQ(tap({.layer = 1, .role = Role::kRouter}).name, "ffn.in");
  EXPECT_EQ(tap({.layer = 1, .shared = true, .role = Role::kGate}).name, "ffn.in");
  EXPECT_EQ(tap({.layer = 1, .shared = true, .role = Role::kDown}).name, "shared.mid");
}

TEST(DecoderTable, BiasesHaveTheIdsOfTheirModules) {
  const Model model = read("llama", {{"attention_bias", true}, {"mlp_bias", true}});
  const LayerTable& layer = model.table.layers[0];
  size_t biases = 0;
  for (const PlainTensor& plain : layer.plain) {
    const WeightModule* module = layer.find(plain.id);
    if (module == nullptr) continue;
    ++biases;
    EXPECT_TRUE(module->bias);
    EXPECT_EQ(plain.name, module->name + ".bias");
    EXPECT_EQ(plain.shape, Shape{module->shape[0]});
  }
  EXPECT_EQ(biases, 7u);
}

TEST(DecoderTable, ATiedHeadIsNone) {
  const Model tied = read("qwen3", {{"tie_word_embeddings", true}}), own = read("qwen3");
  EXPECT_TRUE(tied.table.tied_head);
  EXPECT_EQ(tied.table.globals.modules.size(), 1u);
  EXPECT_TRUE(tied.table.passes_through("lm_head.weight"));
  EXPECT_FALSE(own.table.tied_head);
  EXPECT_EQ(own.table.globals.modules.back().name, "lm_head");
  EXPECT_EQ(own.table.globals.modules.back().kind, ModuleKind::kHead);
  EXPECT_FALSE(own.table.passes_through("lm_head.weight"));
}

TEST(DecoderTable, DraftLayersAndOldFrequenciesPass) {
  const Model glm = read("glm4_moe", {{"num_nextn_predict_layers", 2}});
  EXPECT_FALSE(glm.table.passes_through("model.layers.1.mlp.gate.weight"));
  EXPECT_TRUE(glm.table.passes_through("model.layers.2.eh_proj.weight"));
  EXPECT_TRUE(glm.table.passes_through("model.layers.3.mlp.gate.weight"));
  EXPECT_FALSE(glm.table.passes_through("model.layers.4.mlp.gate.weight"));
  EXPECT_TRUE(read("glm4_moe").table.passes_through("model.layers.2.eh_proj.weight"));
  const Model llama = read("llama");
  EXPECT_FALSE(llama.table.passes_through("model.layers.2.eh_proj.weight"));
  EXPECT_TRUE(llama.table.passes_through("model.layers.1.self_attn.rotary_emb.inv_freq"));
}

// Spec of ModelOpt's groups: what reads one tap shares its scales.
TEST(DecoderTable, TapsOfLatentAttention) {
  const Model model = read_latent("deepseek_v32");
  const LayerTable& layer = model.table.layers[1];
  std::map<std::string, std::string> taps;
  for (const WeightModule& module : layer.modules)
    if (module.name.find("self_attn") != std::string::npos)
      taps[module.name.substr(std::string("model.layers.1.self_attn.").size())] = layer.tap_of(module)->name;
  EXPECT_EQ(taps, (std::map<std::string, std::string>{{"q_a_proj", "attn.in"},
                                                      {"kv_a_proj_with_mqa", "attn.in"},
                                                      {"indexer.wk", "attn.in"},
                                                      {"indexer.weights_proj", "attn.in"},
                                                      {"q_b_proj", "attn.q_rank"},
                                                      {"indexer.wq_b", "attn.q_rank"},
                                                      {"kv_b_proj", "attn.kv_rank"},
                                                      {"o_proj", "attn.out"}}));
  const Tap& rank = *layer.tap_of(*layer.find({.layer = 1, .role = Role::kKvB}));
  EXPECT_EQ(rank.norm, "model.layers.1.self_attn.kv_a_layernorm.weight");
  EXPECT_EQ(rank.width, 12u);
}

TEST(DecoderTable, ShapesOfLatentAttention) {
  const auto found = shapes(read_latent("deepseek_v32").table);
  const std::string prefix = "model.layers.0.self_attn.";
  const std::map<std::string, Shape> expected = {
      {"q_a_proj.weight", {24, 32}},     {"q_a_layernorm.weight", {24}},
      {"q_b_proj.weight", {4 * 20, 24}}, {"kv_a_proj_with_mqa.weight", {12 + 8, 32}},
      {"kv_a_layernorm.weight", {12}},   {"kv_b_proj.weight", {4 * (12 + 16), 12}},
      {"o_proj.weight", {32, 4 * 16}},   {"indexer.wq_b.weight", {3 * 10, 24}},
      {"indexer.wk.weight", {10, 32}},   {"indexer.weights_proj.weight", {3, 32}},
      {"indexer.k_norm.weight", {10}},   {"indexer.k_norm.bias", {10}}};
  size_t count = 0;
  for (const auto& [name, shape] : found) count += name.starts_with(prefix);
  EXPECT_EQ(count, expected.size());
  for (const auto& [name, shape] : expected) EXPECT_EQ(found.at(prefix + name), shape) << name;
}

TEST(DecoderTable, OnlyLayersOfTheirOwnHaveIndexers) {
  const auto own = [](const Json& changes) {
    std::string letters;
    const Model model = read_latent("glm_moe_dsa", with({{"num_hidden_layers", 7}}, changes));
    for (const LayerTable& layer : model.table.layers) {
      const bool has = std::ranges::any_of(
          layer.modules, [](const WeightModule& module) { return module.id.role == Role::kIndexK; });
      letters += has ? 'F' : 'S';
    }
    return letters;
  };
  EXPECT_EQ(own(Json::object()), "FFFFFFF");
  EXPECT_EQ(own({{"index_topk_pattern", "FSSFSSF"}}), "FSSFSSF");
  EXPECT_EQ(own({{"index_topk_freq", 3}}), "FFSSFSS");
  EXPECT_EQ(own({{"index_topk_freq", 2}, {"index_skip_topk_offset", 4}}), "FFFFSFS");
  EXPECT_EQ(own(Json{{"indexer_types", {"full", "shared", "full", "full", "shared", "shared", "full"}}}),
            "FSFFSSF");
}

// ---- settings ----

TEST(DecoderSettings, Defaults) {
  const std::map<std::string, std::pair<double, double>> eps_theta = {
      {"llama", {1e-6, 1e4}},    {"mistral", {1e-6, 1e4}},    {"qwen2", {1e-6, 1e4}},
      {"qwen3", {1e-6, 1e4}},    {"qwen3_moe", {1e-6, 1e4}},  {"mixtral", {1e-5, 1e6}},
      {"glm4_moe", {1e-5, 1e4}}, {"minimax_m2", {1e-6, 5e6}}, {"hy_v3", {1e-5, 11158840}}};
  for (const std::string& type : kAll) {
    SCOPED_TRACE(type);
    const Model model = read(type);
    EXPECT_EQ(spec(model).norm.eps, static_cast<float>(eps_theta.at(type).first));
    EXPECT_EQ(spec(model).norm.use, NormWeight::kRoundedTimes);
    EXPECT_EQ(attention(model).rope.theta, eps_theta.at(type).second);
    EXPECT_EQ(attention(model).rope.pairing, RopePairing::kHalves);
    EXPECT_EQ(attention(model).scale, static_cast<float>(1 / std::sqrt(double(attention(model).width))));
    EXPECT_EQ(model.vocabulary.size, 64u);
    EXPECT_EQ(model.vocabulary.bos_token_id, -1);
  }
}

TEST(DecoderSettings, WidthOfAHead) {
  const std::set<std::string> of_128 = {"qwen3", "minimax_m2", "hy_v3"};
  for (const std::string& type : kAll) {
    EXPECT_EQ(attention(read(type)).width, of_128.contains(type) ? 128u : 8u) << type;
    EXPECT_EQ(attention(read(type, {{"head_dim", 24}})).width, 24u) << type;
    EXPECT_EQ(attention(read(type, {{"head_dim", nullptr}})).width, of_128.contains(type) ? 128u : 8u)
        << type;
  }
}

TEST(DecoderSettings, HeadNorms) {
  for (const char* type : {"llama", "mistral", "qwen2", "mixtral", "glm4_moe"})
    EXPECT_EQ(attention(read(type)).head_norms, HeadNorms::kNone) << type;
  for (const char* type : {"qwen3", "qwen3_moe", "hy_v3"}) {
    const Model model = read(type);
    EXPECT_EQ(attention(model).head_norms, HeadNorms::kPerHead) << type;
    EXPECT_EQ(model.table.layers[0].find_plain(Role::kQNorm)->shape, Shape{attention(model).width});
  }
  EXPECT_EQ(attention(read("glm4_moe", {{"use_qk_norm", true}})).head_norms, HeadNorms::kPerHead);
  const Model minimax = read("minimax_m2");
  EXPECT_EQ(attention(minimax).head_norms, HeadNorms::kAll);
  EXPECT_EQ(minimax.table.layers[0].find_plain(Role::kQNorm)->shape, Shape{4 * 128});
  EXPECT_EQ(minimax.table.layers[0].find_plain(Role::kKNorm)->shape, Shape{2 * 128});
}

TEST(DecoderSettings, Biases) {
  const auto biases = [](const Model& model) {
    return std::pair(attention(model).qkv_bias, attention(model).o_bias);
  };
  const Json bias = {{"attention_bias", true}};
  for (const char* type : {"llama", "qwen3", "qwen3_moe", "hy_v3"}) {
    EXPECT_EQ(biases(read(type)), std::pair(false, false)) << type;
    EXPECT_EQ(biases(read(type, bias)), std::pair(true, true)) << type;
  }
  EXPECT_EQ(biases(read("qwen2")), std::pair(true, false));
  EXPECT_EQ(biases(read("glm4_moe", bias)), std::pair(true, false));
  EXPECT_EQ(biases(read("mistral")), std::pair(false, false));
}

TEST(DecoderSettings, LatentAttention) {
  const Json yarn = {{"rope_theta", 10000},
                     {"rope_scaling",
                      {{"type", "yarn"},
                       {"factor", 40},
                       {"mscale", 1.0},
                       {"mscale_all_dim", 1.0},
                       {"original_max_position_embeddings", 4096}}},
                     {"partial_rotary_factor", 0.5},  // of no meaning here
                     {"head_dim", 64}};               // nor this
  for (const char* type : {"deepseek_v3", "kimi_k2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"}) {
    SCOPED_TRACE(type);
    const bool glm = std::string(type).starts_with("glm"),
               indexed = type == std::string("deepseek_v32") || type == std::string("glm_moe_dsa");
    const Model model = read_latent(type, yarn);
    const MlaSpec mla = latent(model);
    EXPECT_EQ(mla.heads, (LatentHeads{.heads = 4, .key = 12, .shared = 8, .value = 16}));
    EXPECT_EQ(mla.q_rank, 24u);
    EXPECT_EQ(mla.kv_rank, 12u);
    EXPECT_EQ(mla.rank_eps, 1e-6f);
    EXPECT_EQ(spec(model).norm.eps, glm ? 1e-5f : 1e-6f);
    EXPECT_EQ(mla.rope.dims, 8u);
    EXPECT_EQ(mla.rope.place, RopePlace::kLast);
    EXPECT_EQ(mla.rope.pairing, RopePairing::kInterleaved);
    const double growth = 0.1 * std::log(40.0) + 1;
    EXPECT_EQ(mla.scale, static_cast<float>(growth * growth / std::sqrt(20.0)));
    EXPECT_EQ(latent(read_latent(type)).scale, static_cast<float>(1 / std::sqrt(20.0)));
    EXPECT_EQ(mla.most_keys, indexed ? 2048u : 0u);
    EXPECT_EQ(mla.indexer, indexed ? std::optional(IndexerSpec{3, 10}) : std::nullopt);
  }
  EXPECT_EQ(latent(read_latent("deepseek_v3", {{"q_lora_rank", nullptr}})).q_rank, 0u);
  EXPECT_EQ(latent(read_latent("deepseek_v3", {{"rope_interleave", false}})).rope.pairing,
            RopePairing::kHalves);
  // Kimi-K2's.
  const Json equal = {{"rope_scaling",
                       {{"type", "yarn"},
                        {"factor", 32},
                        {"beta_fast", 1},
                        {"beta_slow", 1},
                        {"original_max_position_embeddings", 4096}}}};
  EXPECT_NO_THROW(read_latent("kimi_k2", equal));
}

TEST(DecoderRefusals, LatentAttention) {
  const auto refused = [](ErrorKind kind, const std::string& type, const Json& changes,
                          const std::string& key) {
    SCOPED_TRACE(changes.dump());
    expect_error(
        kind, [&] { read_latent(type, changes); }, "config.json", "'" + key);
  };
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"})
    refused(ErrorKind::kBadInput, "deepseek_v3", {{key, nullptr}}, key);
  for (const char* key : {"index_topk", "index_n_heads", "index_head_dim"})
    refused(ErrorKind::kBadInput, "deepseek_v32", {{key, nullptr}}, key);
  refused(ErrorKind::kBadInput, "deepseek_v3", {{"num_key_value_heads", 2}}, "num_key_value_heads");
  refused(ErrorKind::kBadInput, "deepseek_v3", {{"kv_lora_rank", 0}}, "kv_lora_rank");
  refused(ErrorKind::kBadInput, "deepseek_v3", {{"qk_rope_head_dim", 15}},
          "qk_rope_head_dim' cannot be right (expected an even number");
  refused(ErrorKind::kBadInput, "deepseek_v3",
          {{"num_attention_heads", 1 << 23}, {"num_key_value_heads", 1 << 23}}, "num_attention_heads * (");
  refused(ErrorKind::kUnsupported, "deepseek_v3", {{"attention_bias", true}}, "attention_bias");
  refused(ErrorKind::kUnsupported, "deepseek_v3", {{"scoring_func", "softmax"}}, "scoring_func");
  refused(ErrorKind::kUnsupported, "deepseek_v32", {{"q_lora_rank", nullptr}}, "q_lora_rank");
  refused(ErrorKind::kBadInput, "glm_moe_dsa", Json{{"indexer_types", {"shared", "full"}}}, "indexer_types");
  refused(ErrorKind::kBadInput, "glm_moe_dsa", Json{{"indexer_types", {"full", "half"}}}, "indexer_types[1]");
  refused(ErrorKind::kBadInput, "glm_moe_dsa", {{"index_topk_pattern", "F"}}, "index_topk_pattern");
  refused(ErrorKind::kBadInput, "glm_moe_dsa", {{"index_topk_pattern", "FX"}}, "index_topk_pattern[1]");
}

TEST(DecoderSettings, Windows) {
  const auto windows = [](const Model& model) {
    return std::pair(attention(model, 0).window, attention(model, 1).window);
  };
  using Pair = std::pair<uint64_t, uint64_t>;
  EXPECT_EQ(windows(read("llama", {{"sliding_window", 8}})), Pair(0, 0));
  EXPECT_EQ(windows(read("mistral")), Pair(4096, 4096));
  EXPECT_EQ(windows(read("mistral", {{"sliding_window", nullptr}})), Pair(0, 0));
  EXPECT_EQ(windows(read("mixtral")), Pair(0, 0));
  EXPECT_EQ(windows(read("mixtral", {{"sliding_window", 8}})), Pair(8, 8));
  const Json used = {{"use_sliding_window", true}, {"sliding_window", 8}};
  EXPECT_EQ(windows(read("qwen2", {{"sliding_window", 8}})), Pair(0, 0));
  EXPECT_EQ(windows(read("qwen2", with(used, {{"max_window_layers", 1}}))), Pair(0, 8));
  EXPECT_EQ(windows(read("qwen3", used)), Pair(0, 0));  // from layer 28 on
  EXPECT_EQ(windows(read("qwen3", with(used, {{"layer_types", {"sliding_attention", "full_attention"}}}))),
            Pair(8, 0));
  EXPECT_EQ(windows(read("qwen3_moe", used)), Pair(8, 8));
}

TEST(DecoderSettings, Routers) {
  EXPECT_EQ(moe(read("qwen3_moe")).router,
            (RouterSpec{.experts = 4, .top = 2, .score = RouterScore::kSoftmax, .renormalize = false}));
  EXPECT_TRUE(moe(read("qwen3_moe", {{"norm_topk_prob", true}})).router.renormalize);
  EXPECT_EQ(moe(read("mixtral")).router,
            (RouterSpec{.experts = 4, .top = 2, .score = RouterScore::kSoftmax}));
  EXPECT_EQ(moe(read("minimax_m2")).router,
            (RouterSpec{.experts = 4, .top = 2, .score = RouterScore::kSigmoid}));
  EXPECT_EQ(
      moe(read("hy_v3")).router,
      (RouterSpec{.experts = 4, .top = 2, .score = RouterScore::kSigmoid, .eps = 1e-20f, .scale = 2.826f}));
  const Json groups = {{"n_group", 2}, {"topk_group", 1}, {"routed_scaling_factor", 2.5}};
  EXPECT_EQ(moe(read("glm4_moe", groups)).router, (RouterSpec{.experts = 4,
                                                              .top = 2,
                                                              .score = RouterScore::kSigmoid,
                                                              .groups = 2,
                                                              .top_groups = 1,
                                                              .eps = 1e-20f,
                                                              .scale = 2.5f}));
  EXPECT_FALSE(moe(read("mixtral")).choice_bias);
  EXPECT_TRUE(moe(read("glm4_moe")).choice_bias);
}

TEST(DecoderSettings, WidthsOfExperts) {
  EXPECT_EQ(moe(read("qwen3_moe")).expert.width, 16u);
  EXPECT_EQ(moe(read("mixtral")).expert.width, 48u);
  EXPECT_EQ(moe(read("minimax_m2")).expert.width, 48u);
  EXPECT_EQ(moe(read("glm4_moe", {{"n_shared_experts", 3}})).shared->width, 48u);
  EXPECT_FALSE(moe(read("qwen3_moe")).shared);
}

TEST(DecoderSettings, LayersWithExperts) {
  const auto sparse = [](const std::string& type, const Json& changes) {
    std::string layers;
    for (const LayerTable& layer : read(type, with({{"num_hidden_layers", 4}}, changes)).table.layers)
      layers += layer.experts > 0 ? 'S' : 'd';
    return layers;
  };
  EXPECT_EQ(sparse("qwen3_moe", Json::object()), "SSSS");
  EXPECT_EQ(sparse("qwen3_moe", {{"decoder_sparse_step", 2}}), "dSdS");
  EXPECT_EQ(sparse("qwen3_moe", Json{{"mlp_only_layers", {1, 3}}}), "SdSd");
  EXPECT_EQ(sparse("mixtral", Json::object()), "SSSS");
  EXPECT_EQ(sparse("glm4_moe", Json::object()), "dSSS");
  EXPECT_EQ(sparse("glm4_moe", {{"first_k_dense_replace", 3}}), "dddS");
  EXPECT_EQ(sparse("hy_v3", Json::object()), "dSSS");
  EXPECT_EQ(sparse("hy_v3", {{"mlp_layer_types", {"sparse", "dense", "dense", "sparse"}}}), "SddS");
}

// ---- rotary positions ----

TEST(DecoderRope, Spellings) {
  const Llama3Rope scaling{.factor = 8, .low_factor = 1, .high_factor = 4, .original_length = 256};
  Json parameters = {{"rope_type", "llama3"}, {"factor", 8},       {"low_freq_factor", 1},
                     {"high_freq_factor", 4}, {"rope_theta", 5e5}, {"original_max_position_embeddings", 256}};
  const RopeSpec flat = attention(read("llama", {{"rope_parameters", parameters}})).rope;
  EXPECT_EQ(flat, (RopeSpec{.theta = 5e5, .dims = 8, .scaling = scaling}));
  parameters.erase("rope_theta");
  parameters["type"] = "llama3";
  EXPECT_EQ(attention(read("llama", {{"rope_scaling", parameters}, {"rope_theta", 5e5}})).rope, flat);
  parameters.erase("rope_type");
  EXPECT_EQ(attention(read("llama", {{"rope_scaling", parameters}, {"rope_theta", 5e5}})).rope, flat);
}

TEST(DecoderRope, EveryScaling) {
  const auto rope = [](const Json& scaling) {
    return attention(read("qwen3", {{"rope_scaling", scaling}, {"max_position_embeddings", 512}}))
        .rope.scaling;
  };
  EXPECT_TRUE(std::holds_alternative<std::monostate>(rope(nullptr)));
  EXPECT_TRUE(std::holds_alternative<std::monostate>(rope({{"type", "default"}})));
  EXPECT_EQ(std::get<LinearRope>(rope({{"type", "linear"}, {"factor", 4}})).factor, 4);
  EXPECT_EQ(std::get<DynamicRope>(rope({{"type", "dynamic"}, {"factor", 4}})).length, 512u);
  const YarnRope yarn = std::get<YarnRope>(rope({{"type", "yarn"},
                                                 {"factor", 4.0},
                                                 {"original_max_position_embeddings", 128},
                                                 {"mscale", 1.0},
                                                 {"mscale_all_dim", 0.5},
                                                 {"beta_fast", 16},
                                                 {"truncate", false}}));
  EXPECT_EQ(yarn, (YarnRope{.yarn = {.factor = 4, .beta_fast = 16, .original_length = 128, .truncate = false},
                            .mscale = 1,
                            .mscale_all_dim = 0.5}));
  EXPECT_EQ(
      std::get<YarnRope>(rope({{"type", "yarn"}, {"original_max_position_embeddings", 128}})).yarn.factor, 4);
}

TEST(DecoderRope, PartOfAHead) {
  EXPECT_EQ(attention(read("glm4_moe")).rope.dims, 4u);
  EXPECT_EQ(attention(read("glm4_moe", {{"partial_rotary_factor", 0.25}})).rope.dims, 2u);
  EXPECT_EQ(attention(read("glm4_moe", {{"rope_parameters", {{"partial_rotary_factor", 1.0}}}})).rope.dims,
            8u);
  EXPECT_EQ(attention(read("minimax_m2")).rope.dims, 128u);
  EXPECT_EQ(attention(read("minimax_m2", {{"rotary_dim", 64}})).rope.dims, 64u);
}

TEST(DecoderRope, Refusals) {
  const auto refused = [](ErrorKind kind, const Json& scaling, const std::string& key) {
    expect_refused(kind, "llama", {{"rope_scaling", scaling}}, "rope_scaling." + key);
  };
  refused(ErrorKind::kUnsupported, {{"type", "longrope"}, {"factor", 4}}, "type' has a value");
  refused(ErrorKind::kBadInput, {{"type", "linear"}, {"rope_type", "yarn"}}, "rope_type' contradicts 'type'");
  refused(ErrorKind::kBadInput, {{"type", "linear"}}, "factor' is missing");
  refused(ErrorKind::kBadInput, {{"type", "linear"}, {"factor", 0.5}}, "factor' cannot be right");
  refused(ErrorKind::kUnsupported, {{"full_attention", {{"type", "linear"}}}}, "full_attention");
  expect_refused(ErrorKind::kBadInput, "llama",
                 {{"rope_theta", 1e4}, {"rope_parameters", {{"rope_theta", 1e6}}}},
                 "rope_parameters.rope_theta' contradicts 'rope_theta'");
  expect_refused(
      ErrorKind::kBadInput, "llama",
      {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}, {"rope_parameters", {{"type", "default"}}}},
      "rope_scaling' contradicts 'rope_parameters'");
  expect_refused(ErrorKind::kUnsupported, "llama", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
  expect_refused(ErrorKind::kBadInput, "glm4_moe", {{"partial_rotary_factor", 1.5}}, "partial_rotary_factor");
  expect_refused(ErrorKind::kBadInput, "minimax_m2", {{"rotary_dim", 64}, {"partial_rotary_factor", 1}},
                 "partial_rotary_factor' contradicts 'rotary_dim'");
  expect_refused(ErrorKind::kBadInput, "llama", {{"head_dim", 7}}, "head_dim");
  expect_refused(ErrorKind::kBadInput, "llama", {{"rope_theta", 0}}, "rope_theta");
}

// ---- refusals ----

TEST(DecoderRefusals, EveryMissingSizeIsNamed) {
  for (const std::string& type : kAll) {
    for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads"}) {
      expect_refused(ErrorKind::kBadInput, type, {{key, nullptr}}, std::string(key) + "' is missing");
    }
  }
  EXPECT_EQ(attention(read("llama", {{"num_key_value_heads", nullptr}})).kv_heads, 4u);
  for (const char* type : {"mistral", "qwen3", "glm4_moe"})
    expect_refused(ErrorKind::kBadInput, type, {{"num_key_value_heads", nullptr}}, "num_key_value_heads");
  expect_refused(ErrorKind::kBadInput, "qwen3_moe",
                 {{"num_experts", nullptr}, {"num_local_experts", nullptr}}, "num_experts' is missing");
  expect_refused(ErrorKind::kBadInput, "qwen3_moe", {{"moe_intermediate_size", nullptr}},
                 "moe_intermediate_size");
}

TEST(DecoderRefusals, AbsurdNumbers) {
  for (const Json& value : {Json(0), Json(-1), Json(1.5), Json("32"), Json(1e30), Json(1u << 30)}) {
    for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"})
      expect_refused(ErrorKind::kBadInput, "llama", {{key, value}}, key, value.dump());
  }
  const auto refused = [](const std::string& type, const Json& changes, const std::string& key) {
    expect_refused(ErrorKind::kBadInput, type, changes, key);
  };
  refused("llama", {{"num_key_value_heads", 3}}, "num_attention_heads' cannot be right");
  refused("llama", {{"num_attention_heads", 6}}, "hidden_size' cannot be right");
  refused("llama", {{"head_dim", 15}}, "head_dim' cannot be right (expected an even number");
  refused("llama", {{"rms_norm_eps", 0}}, "rms_norm_eps");
  refused("llama", {{"eos_token_id", 64}}, "eos_token_id");
  refused("llama", {{"head_dim", 1 << 24}, {"num_attention_heads", 8}}, "num_attention_heads * head_dim");
  refused("qwen3_moe", {{"num_experts_per_tok", 5}}, "num_experts_per_tok");
  refused("qwen3_moe", Json{{"mlp_only_layers", {2}}}, "mlp_only_layers");
  refused("qwen3_moe", {{"num_experts", 1 << 20}, {"num_local_experts", 1 << 20}},
          "num_hidden_layers * experts");
  refused("glm4_moe", {{"n_group", 3}}, "n_routed_experts");
  refused("glm4_moe", {{"n_group", 4}, {"topk_group", 2}}, "n_routed_experts");  // a group needs two
  refused("glm4_moe", {{"topk_group", 2}}, "topk_group");
  refused("hy_v3", {{"mlp_layer_types", {"dense", "moe"}}}, "mlp_layer_types[1]");
  refused("qwen3", {{"layer_types", {"full_attention"}}}, "layer_types");
}

TEST(DecoderRefusals, Contradictions) {
  const auto refused = [](const std::string& type, const Json& changes, const std::string& key) {
    expect_refused(ErrorKind::kBadInput, type, changes, key, "contradicts");
  };
  refused("qwen3_moe", {{"num_experts", 8}}, "num_experts");
  refused("glm4_moe", {{"num_nextn_predict_layers", 1}, {"num_mtp_layers", 2}}, "num_nextn_predict_layers");
  const Json types = {{"layer_types", {"full_attention", "sliding_attention"}}};
  refused("qwen3", types, "layer_types[1]");
  refused("llama", types, "layer_types[1]");
  refused("mistral", types, "layer_types[0]");
}

TEST(DecoderRefusals, WhatTheForwardPassLacks) {
  const auto refused = [](const std::string& type, const Json& changes, const std::string& key) {
    expect_refused(ErrorKind::kUnsupported, type, changes, key, "not supported");
  };
  for (const std::string& type : kAll) {
    refused(type, {{"hidden_act", "gelu"}}, "hidden_act");
    refused(type, {{"attn_logit_softcapping", 50.0}}, "attn_logit_softcapping");
  }
  refused("minimax_m2", {{"scoring_func", "softmax"}}, "scoring_func");
  refused("minimax_m2", Json{{"attn_type_list", {1, 0}}}, "attn_type_list");
  EXPECT_NO_THROW(read("minimax_m2", Json{{"attn_type_list", {1, 1}}}));
  refused("qwen3", {{"layer_types", {"full_attention", "linear_attention"}}}, "layer_types[1]");
  expect_error(
      ErrorKind::kUnsupported, [] { read("gpt2"); }, "gpt2", "qwen3_moe");
}

// ---- Qwen3-Next and Qwen3.5 ----

class HybridGolden : public ::testing::TestWithParam<const char*> {};

// Beside what passes through.
TEST_P(HybridGolden, TableIsWhatReleasesHave) {
  SKIP_WITHOUT_FAMILY_MODEL(folder, GetParam());
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const Model model = read_model(checkpoint.config(), "config.json");
  std::map<std::string, Shape> stored;
  size_t passed = 0;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (model.table.passes_through(tensor.name))
      ++passed;
    else
      stored[tensor.name] = tensor.shape;
  }
  EXPECT_EQ(stored_shapes(model.table), stored);
  EXPECT_EQ(passed, model.family == "qwen3_next" ? 1u : 2u);
  EXPECT_EQ(model.family, GetParam());
}
INSTANTIATE_TEST_SUITE_P(Families, HybridGolden, ::testing::Values("qwen3_next", "qwen3_5", "qwen3_5_moe"));

Json hybrid(const std::string& model_type, const Json& changes = Json::object()) {
  Json text = with(minimal(model_type), {{"num_hidden_layers", 5}, {"shared_expert_intermediate_size", 24}});
  if (model_type != "qwen3_5" && model_type != "qwen3_5_moe") return with(text, changes);
  text["model_type"] = model_type + "_text";
  return {{"model_type", model_type}, {"text_config", with(text, changes)}};
}
Model read_hybrid(const std::string& model_type, const Json& changes = Json::object()) {
  return read_model(hybrid(model_type, changes), "config.json");
}

TEST(DecoderHybrid, SettingsWhereTheConfigIsSilent) {
  for (const char* type : {"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"}) {
    SCOPED_TRACE(type);
    const Model model = read_hybrid(type);
    const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
    EXPECT_EQ(spec.norm, (NormSpec{.eps = 1e-6f, .use = NormWeight::kPlusOne}));
    const GqaSpec& gqa = attention(model, 3);
    EXPECT_EQ(gqa.width, 256u);
    EXPECT_EQ(gqa.rope, (RopeSpec{.theta = 10000, .dims = 64}));
    EXPECT_EQ(gqa.head_norms, HeadNorms::kPerHead);
    EXPECT_TRUE(gqa.output_gate);
    const DeltaNetShape shape = {
        .key_heads = 16, .value_heads = 32, .key_width = 128, .value_width = 128, .taps = 4};
    const DeltaNetInput input =
        std::string(type) == "qwen3_next" ? DeltaNetInput::kByHead : DeltaNetInput::kSplit;
    for (const size_t layer : {0, 1, 2, 4})
      EXPECT_EQ(std::get<DeltaNetSpec>(spec.layers[layer].mixer), (DeltaNetSpec{shape, input})) << layer;
  }
}

TEST(DecoderHybrid, ExpertsAndTheirSharedOne) {
  for (const char* type : {"qwen3_next", "qwen3_5_moe"}) {
    const MoeSpec found = moe(read_hybrid(type));
    EXPECT_EQ(found.shared, (MlpSpec{.width = 24})) << type;
    EXPECT_TRUE(found.shared_gate) << type;
    EXPECT_TRUE(found.router.renormalize) << type;
    EXPECT_EQ(found.router.score, RouterScore::kSoftmax) << type;
  }
  EXPECT_FALSE(moe(read_hybrid("qwen3_next", {{"norm_topk_prob", false}})).router.renormalize);
  EXPECT_TRUE(std::holds_alternative<MlpSpec>(spec(read_hybrid("qwen3_5")).layers[0].ffn));
  const Model steps = read_hybrid("qwen3_next", {{"mlp_only_layers", {1}}});
  EXPECT_TRUE(std::holds_alternative<MlpSpec>(spec(steps).layers[1].ffn));
  EXPECT_EQ(read_hybrid("qwen3_next").table.layers[0].stacks.down, "");
  EXPECT_EQ(read_hybrid("qwen3_5_moe").table.layers[2].stacks.gate_up,
            "model.language_model.layers.2.mlp.experts.gate_up_proj");
}

TEST(DecoderHybrid, KindsOfLayers) {
  const auto is_linear = [](const Model& model) {
    std::vector<bool> found;
    for (const DecoderLayer& layer : spec(model).layers)
      found.push_back(std::holds_alternative<DeltaNetSpec>(layer.mixer));
    return found;
  };
  EXPECT_EQ(is_linear(read_hybrid("qwen3_next", {{"full_attention_interval", 2}})),
            (std::vector<bool>{true, false, true, false, true}));
  const Json types = {"full_attention", "linear_attention", "full_attention", "full_attention",
                      "linear_attention"};
  EXPECT_EQ(is_linear(read_hybrid("qwen3_5", {{"layer_types", types}})),
            (std::vector<bool>{false, true, false, false, true}));
}

TEST(DecoderHybrid, TapsOfADeltaNet) {
  const Model model = read_hybrid("qwen3_5_moe");
  const LayerTable& layer = model.table.layers[0];
  std::map<std::string, std::string> taps;
  for (const WeightModule& module : layer.modules)
    if (!module.is_routed_expert()) taps[module.name.substr(30)] = layer.tap_of(module)->name;
  EXPECT_EQ(taps, (std::map<std::string, std::string>{{"linear_attn.in_proj_a", "attn.in"},
                                                      {"linear_attn.in_proj_b", "attn.in"},
                                                      {"linear_attn.in_proj_qkv", "attn.in"},
                                                      {"linear_attn.in_proj_z", "attn.in"},
                                                      {"linear_attn.out_proj", "attn.out"},
                                                      {"mlp.gate", "ffn.in"},
                                                      {"mlp.shared_expert.down_proj", "shared.mid"},
                                                      {"mlp.shared_expert.gate_proj", "ffn.in"},
                                                      {"mlp.shared_expert.up_proj", "ffn.in"},
                                                      {"mlp.shared_expert_gate", "ffn.in"}}));
  EXPECT_TRUE(layer.taps[0].norm_plus_one);
  EXPECT_EQ(layer.find_plain(Role::kFilter)->shape, (Shape{8192, 1, 4}));
}

TEST(DecoderHybrid, RefusesWhatTheForwardPassLacks) {
  const auto refused = [](const Json& changes, const std::string& key) {
    SCOPED_TRACE(changes.dump());
    expect_error(
        ErrorKind::kUnsupported, [&] { read_hybrid("qwen3_5", changes); }, "config.json",
        "'text_config." + key);
  };
  refused({{"attn_output_gate", false}}, "attn_output_gate");
  refused({{"layer_types",
            {"linear_attention", "sliding_attention", "full_attention", "full_attention", "full_attention"}}},
          "layer_types[1]");
  refused({{"hidden_act", "gelu"}}, "hidden_act");
  expect_error(
      ErrorKind::kBadInput,
      [] {
        read_hybrid("qwen3_5", {{"linear_num_value_heads", 20}});
      },
      "'text_config.linear_num_value_heads", "linear_num_key_heads = 16");
  expect_error(
      ErrorKind::kBadInput,
      [] {
        read_hybrid("qwen3_next", {{"shared_expert_intermediate_size", nullptr}});
      },
      "shared_expert_intermediate_size' is missing");
  Json config = hybrid("qwen3_5");
  config["text_config"]["model_type"] = "qwen3";
  expect_error(
      ErrorKind::kUnsupported, [&] { read_model(config, "config.json"); }, "text_config.model_type",
      "qwen3_5_text");
  config.erase("text_config");
  expect_error(
      ErrorKind::kBadInput, [&] { read_model(config, "config.json"); }, "'text_config' is missing");
}

TEST(DecoderHybrid, TheHeadIsTiedByEitherSpelling) {
  Json config = hybrid("qwen3_5");
  config["tie_word_embeddings"] = true;
  EXPECT_TRUE(read_model(config, "config.json").table.tied_head);
  config["text_config"]["tie_word_embeddings"] = false;
  expect_error(
      ErrorKind::kBadInput, [&] { read_model(config, "config.json"); }, "tie_word_embeddings");
  config.erase("tie_word_embeddings");
  EXPECT_FALSE(read_model(config, "config.json").table.tied_head);
}

// ---- presets ----

double billions(const Model& model) {
  double parameters = 0;
  for (const auto& [name, shape] : shapes(model.table))
    parameters += static_cast<double>(*element_count(shape));
  return parameters / 1e9;
}

TEST(DecoderPresets, HaveTheReleasesSizes) {
  const std::map<std::string_view, double> sizes = {
      {"qwen3-8b", 8.19},           {"qwen3-32b", 32.8},      {"qwen3-30b-a3b", 30.5},
      {"qwen3-235b-a22b", 235.1},   {"llama-3.1-8b", 8.03},   {"llama-3.3-70b", 70.6},
      {"mixtral-8x7b", 46.7},       {"glm-4.5-air", 106.9},   {"glm-4.6", 352.8},
      {"qwen3-tiny", 0.003},        {"qwen3-moe-tiny", 0.01}, {"deepseek-v3", 671.0},
      {"deepseek-v3.2", 671.9},     {"kimi-k2", 1026.4},      {"deepseek-v3-tiny", 0.01},
      {"qwen3-next-80b-a3b", 79.7}, {"qwen3.5-27b", 26.9},    {"qwen3.5-35b-a3b", 34.7},
      {"qwen3.5-397b-a17b", 396.3}, {"qwen3.5-tiny", 0.005},  {"qwen3.5-moe-tiny", 0.01}};
  for (const Preset& preset : kDecoderFamily.presets) {
    const Model model = read_model(preset.config(), std::string(preset.name));
    EXPECT_NEAR(billions(model), sizes.at(preset.name), sizes.at(preset.name) * 0.01 + 0.003) << preset.name;
  }
  EXPECT_EQ(kDecoderFamily.presets.size(), sizes.size());
}

TEST(DecoderPresets, StoredIsTheTable) {
  for (const Preset& preset : kDecoderFamily.presets) {
    const Model model = read_model(preset.config(), std::string(preset.name));
    if (model.layers() > 8) continue;
    std::map<std::string, Shape> stored;
    const auto add = [&](std::optional<uint64_t> layer) {
      for (const auto& [tensor, fill, is_norm] : kDecoderFamily.synth(model, layer)) {
        EXPECT_EQ(tensor.dtype, tensor.name.ends_with("correction_bias") ? Dtype::kF32 : Dtype::kBF16);
        EXPECT_EQ(tensor.size_bytes, dtype_bytes(tensor.dtype) * *element_count(tensor.shape));
        stored[tensor.name] = tensor.shape;
      }
    };
    add(std::nullopt);
    for (uint64_t layer = 0; layer < model.layers(); ++layer) add(layer);
    EXPECT_EQ(stored, stored_shapes(model.table)) << preset.name;
  }
}

TEST(DecoderPresets, TheTinyMoeHasLayersOfBothKinds) {
  const Model model = read_model(preset_config("qwen3-moe-tiny"), "qwen3-moe-tiny");
  EXPECT_EQ(model.table.layers[0].experts, 0u);
  EXPECT_GT(model.table.layers[1].experts, 0u);
}

}  // namespace
}  // namespace nibblecast
