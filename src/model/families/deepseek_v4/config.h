// model/families/deepseek_v4/config.h - the numbers of a DeepSeek-V4 model, from either spelling of config.json.
//
// Spellings: the release's (huggingface.co/deepseek-ai/DeepSeek-V4-Pro config.json) and transformers >= 5's
// (layer_types, mlp_layer_types, compress_rates, rope_parameters, partial_rotary_factor,
// num_local_experts...). Where both stand in one file, transformers' wins, as there (layer_types over
// compress_ratios); values that contradict each other are refused.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace nibblecast {

struct RopeConfig {
  double theta = 10000;
  bool yarn = false;
  double factor = 1, beta_fast = 32, beta_slow = 1;
  uint64_t original_max_position_embeddings = 0;

  bool operator==(const RopeConfig&) const = default;
};

struct DeepseekV4Config {
  uint64_t hidden_size = 0;            // D
  uint64_t num_hidden_layers = 0;      // L
  uint64_t num_attention_heads = 0;    // H
  uint64_t head_dim = 0;               // hd
  uint64_t qk_rope_head_dim = 0;       // rd
  uint64_t q_lora_rank = 0;            // ql
  uint64_t o_groups = 0;               // og
  uint64_t o_lora_rank = 0;            // ol
  uint64_t moe_intermediate_size = 0;  // I
  uint64_t n_routed_experts = 0;       // E
  uint64_t n_shared_experts = 0;
  uint64_t num_experts_per_tok = 0;  // K
  uint64_t num_hash_layers = 0;
  double routed_scaling_factor = 1;
  double swiglu_limit = 0;
  uint64_t index_n_heads = 0, index_head_dim = 0, index_topk = 0;
  uint64_t sliding_window = 0;
  std::vector<uint32_t> compress_ratios;  // one per main layer: 0 sliding, 4 CSA, 128 HCA
  RopeConfig rope;                        // sliding layers
  RopeConfig compress_rope;               // CSA and HCA layers
  uint64_t hc_mult = 0, hc_sinkhorn_iters = 0;
  double hc_eps = 1e-6, rms_norm_eps = 1e-6;
  uint64_t vocab_size = 0;
  int64_t bos_token_id = -1, eos_token_id = -1;  // -1: not given
  uint64_t max_position_embeddings = 0;
  uint64_t tile_rows = 128, tile_cols = 128;  // quantization_config.weight_block_size
  std::string expert_dtype;                   // "fp4", "fp8", or empty where absent

  bool operator==(const DeepseekV4Config&) const = default;
  bool is_hash_layer(uint64_t layer) const { return layer < num_hash_layers; }

  // Refuses (kBadInput / kUnsupported, naming `file`, the key, expected, found): missing, mistyped, absurd or
  // contradicting values; another model_type; options of V4's code whose other values this forward lacks
  // (scoring_func other than sqrtsoftplus, attention_bias, hidden_act other than silu, ...).
  static DeepseekV4Config parse(const Json& config, const std::string& file);
};

// The same configuration in transformers' spelling alone (5.17's); fields that both have, and unknown ones,
// stay. `config` is what `parsed` was made of.
Json hub_config(const Json& config, const DeepseekV4Config& parsed);

}  // namespace nibblecast
