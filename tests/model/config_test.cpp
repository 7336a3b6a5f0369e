#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/file.h"
#include "model/families/deepseek_v4/config.h"
#include "model/family.h"
#include "testing.h"

namespace nibblecast {
namespace {

DeepseekV4Config parse(const Json& config) { return DeepseekV4Config::parse(config, "config.json"); }

void expect_refused(ErrorKind kind, const Json& config, const std::string& key,
                    const std::string& expected = "", const std::string& found = "") {
  testing::expect_error(
      kind, [&] { parse(config); }, "config.json: ", key, expected, found);
}

// v4-tiny as transformers >= 5 writes it.
Json transformers_spelling() {
  Json config = preset_config("v4-tiny");
  for (const char* key :
       {"compress_ratios", "num_hash_layers", "qk_rope_head_dim", "rope_theta", "rope_scaling",
        "compress_rope_theta", "n_routed_experts", "moe_intermediate_size"}) {
    config.erase(key);
  }
  config["num_local_experts"] = 8;
  config["intermediate_size"] = 128;
  config["layer_types"] = {"sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention",
                           "heavily_compressed_attention", "compressed_sparse_attention"};
  config["mlp_layer_types"] = {"hash_moe", "hash_moe", "moe", "moe", "moe"};
  config["compress_rates"] = {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 128}};
  config["partial_rotary_factor"] = 0.5;
  config["rope_parameters"] = {
      {"main", {{"rope_type", "default"}, {"rope_theta", 10000}, {"partial_rotary_factor", 0.5}}},
      {"compress",
       {{"rope_type", "yarn"},
        {"rope_theta", 160000},
        {"partial_rotary_factor", 0.5},
        {"factor", 16},
        {"original_max_position_embeddings", 512},
        {"beta_fast", 32},
        {"beta_slow", 1},
        {"attention_factor", 1.0}}}};
  return config;
}

TEST(DeepseekV4Config, ReadsTheReleaseSpelling) {
  const auto c = parse(preset_config("v4-pro"));
  EXPECT_EQ(c.hidden_size, 7168u);
  EXPECT_EQ(c.num_hidden_layers, 61u);
  EXPECT_EQ(c.num_attention_heads, 128u);
  EXPECT_EQ(c.head_dim, 512u);
  EXPECT_EQ(c.qk_rope_head_dim, 64u);
  EXPECT_EQ(c.q_lora_rank, 1536u);
  EXPECT_EQ(c.o_groups, 16u);
  EXPECT_EQ(c.o_lora_rank, 1024u);
  EXPECT_EQ(c.moe_intermediate_size, 3072u);
  EXPECT_EQ(c.n_routed_experts, 384u);
  EXPECT_EQ(c.num_experts_per_tok, 6u);
  EXPECT_EQ(c.num_hash_layers, 3u);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.swiglu_limit, 10.0);
  EXPECT_EQ(c.index_topk, 1024u);
  EXPECT_EQ(c.hc_mult, 4u);
  EXPECT_EQ(c.hc_sinkhorn_iters, 20u);
  EXPECT_EQ(c.vocab_size, 129280u);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_id, 1);
  EXPECT_EQ(c.tile_rows, 128u);
  EXPECT_EQ(c.expert_dtype, "fp4");
  EXPECT_EQ(c.rope, (RopeConfig{.theta = 10000}));
  EXPECT_EQ(c.compress_rope, (RopeConfig{.theta = 160000,
                                         .yarn = true,
                                         .factor = 16,
                                         .beta_fast = 32,
                                         .beta_slow = 1,
                                         .original_max_position_embeddings = 65536}));
}

TEST(DeepseekV4Config, DropsTheDraftLayersOfCompressRatios) {
  const auto flash = parse(preset_config("v4-flash"));
  ASSERT_EQ(flash.compress_ratios.size(), 43u);
  EXPECT_EQ(flash.compress_ratios[1], 0u);
  EXPECT_EQ(flash.compress_ratios[2], 4u);
  EXPECT_EQ(flash.compress_ratios[41], 128u);
  Json three = preset_config("v4-flash");  // as DSpark checkpoints have it
  three["compress_ratios"].push_back(0);
  three["compress_ratios"].push_back(0);
  EXPECT_EQ(parse(three).compress_ratios, flash.compress_ratios);
}

TEST(DeepseekV4Config, BothSpellingsMeanTheSame) {
  const auto official = parse(preset_config("v4-tiny"));
  const auto other = parse(transformers_spelling());
  EXPECT_EQ(other.compress_ratios, official.compress_ratios);
  EXPECT_EQ(other.num_hash_layers, official.num_hash_layers);
  EXPECT_EQ(other.qk_rope_head_dim, official.qk_rope_head_dim);
  EXPECT_EQ(other.rope, official.rope);
  EXPECT_EQ(other.compress_rope, official.compress_rope);
  EXPECT_EQ(other.n_routed_experts, official.n_routed_experts);
  EXPECT_EQ(other.moe_intermediate_size, official.moe_intermediate_size);
  Json both = transformers_spelling();
  both.update(preset_config("v4-tiny"));
  EXPECT_EQ(parse(both).compress_ratios, official.compress_ratios);
}

TEST(DeepseekV4Config, IsWrittenInTransformersSpelling) {
  Json release = preset_config("v4-tiny");
  release["torch_dtype"] = "bfloat16";
  release["mine"] = 1;
  const Json hub = hub_config(release, parse(release));
  for (const char* key :
       {"compress_ratios", "num_hash_layers", "qk_rope_head_dim", "rope_scaling", "torch_dtype"})
    EXPECT_FALSE(hub.contains(key)) << key;
  for (const char* key :
       {"layer_types", "mlp_layer_types", "compress_rates", "partial_rotary_factor", "rope_parameters"})
    EXPECT_EQ(hub.at(key), transformers_spelling().at(key)) << key;
  EXPECT_EQ(hub["dtype"].get<std::string>(), "bfloat16");
  EXPECT_EQ(hub["mine"].get<int>(), 1);
  for (const Preset& preset : family_named("deepseek_v4").presets) {
    const std::string_view name = preset.name;
    const Json config = preset_config(name);
    const auto official = parse(config), read = parse(hub_config(config, parse(config)));
    EXPECT_EQ(official.compress_ratios, read.compress_ratios) << name;
    EXPECT_EQ(official.num_hash_layers, read.num_hash_layers) << name;
    EXPECT_EQ(official.qk_rope_head_dim, read.qk_rope_head_dim) << name;
    EXPECT_TRUE(official.rope == read.rope && official.compress_rope == read.compress_rope) << name;
  }
  // What is spelled so already stays.
  Json spelled = transformers_spelling();
  spelled.erase("torch_dtype");
  spelled["dtype"] = "bfloat16";
  EXPECT_EQ(hub_config(spelled, parse(spelled)), spelled);
}

TEST(DeepseekV4Config, SpellingsThatContradictAreRefused) {
  const auto refuse = [](const char* key, const Json& value, const std::string& named) {
    Json both = transformers_spelling();
    both.update(preset_config("v4-tiny"));
    both[key] = value;
    expect_refused(ErrorKind::kBadInput, both, named, "contradicts");
  };
  refuse("layer_types",
         {"compressed_sparse_attention", "heavily_compressed_attention", "compressed_sparse_attention",
          "heavily_compressed_attention", "compressed_sparse_attention"},
         "'compress_ratios[0]'");
  refuse("num_hash_layers", 1, "'num_hash_layers'");
  refuse("num_local_experts", 16, "'n_routed_experts'");
  refuse("intermediate_size", 64, "'moe_intermediate_size'");
  refuse("qk_rope_head_dim", 32, "'partial_rotary_factor'");
  refuse("rope_theta", 500000, "'rope_theta'");
  refuse("compress_rope_theta", 500000, "'compress_rope_theta'");
  refuse("rope_scaling", {{"type", "yarn"}, {"factor", 8}, {"original_max_position_embeddings", 512}},
         "'rope_scaling'");
}

TEST(DeepseekV4Config, EveryNumberIsRequired) {
  for (const char* key : {"model_type",
                          "hidden_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "head_dim",
                          "qk_rope_head_dim",
                          "q_lora_rank",
                          "o_groups",
                          "o_lora_rank",
                          "moe_intermediate_size",
                          "n_routed_experts",
                          "n_shared_experts",
                          "num_experts_per_tok",
                          "num_hash_layers",
                          "routed_scaling_factor",
                          "swiglu_limit",
                          "index_n_heads",
                          "index_head_dim",
                          "index_topk",
                          "sliding_window",
                          "compress_ratios",
                          "rope_theta",
                          "compress_rope_theta",
                          "rope_scaling",
                          "hc_mult",
                          "hc_sinkhorn_iters",
                          "hc_eps",
                          "rms_norm_eps",
                          "vocab_size",
                          "max_position_embeddings"}) {
    Json config = preset_config("v4-pro");
    config.erase(key);
    expect_refused(ErrorKind::kBadInput, config, std::string("'") + key + "' is missing");
    config[key] = nullptr;  // as transformers writes what is not set
    expect_refused(ErrorKind::kBadInput, config, std::string("'") + key + "' is missing");
  }
}

TEST(DeepseekV4Config, AbsurdNumbersAreRefused) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "qk_rope_head_dim",
        "q_lora_rank", "o_groups", "o_lora_rank", "moe_intermediate_size", "n_routed_experts",
        "num_experts_per_tok", "index_n_heads", "index_head_dim", "index_topk", "sliding_window", "hc_mult",
        "hc_sinkhorn_iters", "vocab_size"}) {
    for (const Json& value : {Json(0), Json(-1), Json(1.5), Json(16777217), Json(18446744073709551615u),
                              Json("128"), Json(true), Json::array({1}), Json(infinity)}) {
      Json config = preset_config("v4-pro");
      config[key] = value;
      expect_refused(ErrorKind::kBadInput, config, std::string("'") + key + "'", "expected an integer from ");
    }
  }
  for (const char* key : {"routed_scaling_factor", "swiglu_limit", "rope_theta", "compress_rope_theta",
                          "hc_eps", "rms_norm_eps"}) {
    for (const Json& value :
         {Json(0), Json(-1.0), Json(infinity), Json(std::nan("")), Json("1"), Json(true)}) {
      Json config = preset_config("v4-pro");
      config[key] = value;
      expect_refused(ErrorKind::kBadInput, config, std::string("'") + key + "'", "expected a number above 0");
    }
  }
}

TEST(DeepseekV4Config, NumbersThatDoNotFitEachOtherAreRefused) {
  const auto refuse = [](const char* key, const Json& value, const std::string& named,
                         const std::string& expected, const std::string& found) {
    Json config = preset_config("v4-pro");
    config[key] = value;
    expect_refused(ErrorKind::kBadInput, config, named, "expected " + expected, "found " + found);
  };
  refuse("hidden_size", 7170, "'hidden_size'", "a multiple of 32", "7170");
  refuse("moe_intermediate_size", 3080, "'moe_intermediate_size'", "a multiple of 32", "3080");
  refuse("num_attention_heads", 120, "'num_attention_heads'", "a multiple of o_groups = 16", "120");
  refuse("qk_rope_head_dim", 63, "'qk_rope_head_dim'", "an even number", "63");
  refuse("qk_rope_head_dim", 514, "'qk_rope_head_dim'", "an integer from 2 to 512", "514");
  refuse("index_head_dim", 32, "'qk_rope_head_dim'", "at most index_head_dim = 32", "64");
  refuse("num_experts_per_tok", 385, "'num_experts_per_tok'", "at most n_routed_experts = 384", "385");
  refuse("num_hash_layers", 62, "'num_hash_layers'", "at most num_hidden_layers = 61", "62");
  refuse("num_hidden_layers", 63, "'compress_ratios'", "an array of at least 63 entries", "62 entries");
  refuse("head_dim", 1 << 20, "'num_attention_heads * head_dim'", "at most 67108864", "134217728");
  refuse("o_lora_rank", 1 << 24, "'o_groups * o_lora_rank'", "at most", "");
  refuse("index_n_heads", 1 << 24, "'index_n_heads * index_head_dim'", "at most", "");
  refuse("n_routed_experts", 1 << 24, "'num_hidden_layers * n_routed_experts'", "at most 262144", "");
  refuse("bos_token_id", 129280, "'bos_token_id'", "a token id below vocab_size = 129280", "129280");
  refuse("eos_token_id", -5, "'eos_token_id'", "a token id", "-5");
  refuse("compress_ratios", 128, "'compress_ratios'", "an array of at least 61 entries", "128");
  refuse("rope_scaling", "yarn", "'rope_scaling'", "an object", "\"yarn\"");
}

TEST(DeepseekV4Config, OtherCompressRatiosAreRefused) {
  for (const Json& ratio :
       {Json(1), Json(8), Json(-4), Json(4.5), Json("4"), Json(nullptr), Json(4294967300u)}) {
    Json config = preset_config("v4-pro");
    config["compress_ratios"][7] = ratio;
    expect_refused(ErrorKind::kBadInput, config, "'compress_ratios[7]'", "expected 0, 4 or 128");
  }
}

TEST(DeepseekV4Config, AbsurdYarnIsRefused) {
  const auto refuse = [](const char* key, const Json& value, ErrorKind kind = ErrorKind::kBadInput) {
    Json config = preset_config("v4-pro");
    config["rope_scaling"][key] = value;
    expect_refused(kind, config, std::string("'rope_scaling.") + key + "'");
  };
  refuse("factor", 0);
  refuse("factor", 0.5);
  refuse("factor", nullptr);
  refuse("beta_fast", 1);
  refuse("beta_slow", -1);
  refuse("original_max_position_embeddings", 0);
  refuse("original_max_position_embeddings", 1.5);
  refuse("type", nullptr);
  refuse("type", 3);
  refuse("type", "linear", ErrorKind::kUnsupported);
  refuse("attention_factor", 1.2, ErrorKind::kUnsupported);
}

TEST(DeepseekV4Config, OtherTilesAreReadAndAbsurdOnesRefused) {
  Json config = preset_config("v4-pro");
  config["quantization_config"]["weight_block_size"] = {32, 64};
  EXPECT_EQ(parse(config).tile_rows, 32u);
  EXPECT_EQ(parse(config).tile_cols, 64u);
  for (const Json& tile :
       {Json(128), Json{128}, Json{128, 0}, Json{128, -128}, Json{128, 128, 128}, Json{1.5, 2}}) {
    config["quantization_config"]["weight_block_size"] = tile;
    expect_refused(ErrorKind::kBadInput, config, "'quantization_config.weight_block_size'");
  }
}

TEST(DeepseekV4Config, OtherArchitecturesAreUnsupported) {
  const auto refuse = [](const char* key, const Json& value) {
    Json config = preset_config("v4-pro");
    config[key] = value;
    expect_refused(ErrorKind::kUnsupported, config, std::string("'") + key + "'");
  };
  refuse("model_type", "deepseek_v41");
  refuse("n_shared_experts", 2);
  refuse("num_key_value_heads", 8);
  refuse("scoring_func", "sigmoid");
  refuse("topk_method", "group_limited_greedy");
  refuse("norm_topk_prob", false);
  refuse("hidden_act", "gelu");
  refuse("attention_bias", true);
  refuse("tie_word_embeddings", true);
  refuse("expert_dtype", "int4");
}

TEST(DeepseekV4Config, LayerTypesAreChecked) {
  Json rates = transformers_spelling();
  rates["compress_rates"]["compressed_sparse_attention"] = 8;
  expect_refused(ErrorKind::kUnsupported, rates, "'compress_rates.compressed_sparse_attention'",
                 "expected 4");
  Json config = transformers_spelling();
  config["layer_types"][2] = "full_attention";
  expect_refused(ErrorKind::kBadInput, config, "'layer_types[2]'", "sliding_attention", "\"full_attention\"");
  config = transformers_spelling();
  config["mlp_layer_types"][3] = "hash_moe";
  expect_refused(ErrorKind::kBadInput, config, "'mlp_layer_types[3]'", "hash_moe in the first layers only");
  config = transformers_spelling();
  config["mlp_layer_types"] = {"moe"};
  expect_refused(ErrorKind::kBadInput, config, "'mlp_layer_types'", "at least 5 entries", "1 entries");
  config = transformers_spelling();
  config["rope_parameters"]["main"]["rope_type"] = "yarn";
  expect_refused(ErrorKind::kUnsupported, config, "'rope_parameters.main.rope_type'");
  for (const Json& factor : {Json(0.0), Json(1.5), Json(0.3), Json(0.001), Json("half")}) {
    config = transformers_spelling();
    config["partial_rotary_factor"] = factor;
    expect_refused(ErrorKind::kBadInput, config, "'partial_rotary_factor'");
  }
}

TEST(DeepseekV4Config, AnythingButAnObjectIsRefused) {
  for (const Json& config : {Json(), Json(3), Json("deepseek_v4"), Json::array()}) {
    expect_refused(ErrorKind::kBadInput, config, "expected an object");
  }
}

TEST(DeepseekV4Config, ReadsARealOne) {
  SKIP_WITHOUT_SHARED_MODEL(folder, "tiny-v4");
  const std::string file = (folder / "config.json").string();
  const auto c = DeepseekV4Config::parse(parse_json(read_text(system_files(), file, 1 << 20), file), file);
  EXPECT_EQ(c.compress_ratios, (std::vector<uint32_t>{128, 128, 4, 128, 4, 128}));
  EXPECT_EQ(c.num_hash_layers, 2u);
  EXPECT_EQ(c.compress_rope.original_max_position_embeddings, 512u);
}

}  // namespace
}  // namespace nibblecast
