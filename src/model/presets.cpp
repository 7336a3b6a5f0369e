#include "model/presets.h"

#include <vector>

namespace nibblecast {
namespace {

// What V4-Pro and V4-Flash have in common.
Json common_config() {
  return {{"architectures", {"DeepseekV4ForCausalLM"}},
          {"model_type", "deepseek_v4"},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"expert_dtype", "fp4"},
          {"head_dim", 512},
          {"hidden_act", "silu"},
          {"hc_eps", 1e-6},
          {"hc_mult", 4},
          {"hc_sinkhorn_iters", 20},
          {"index_head_dim", 128},
          {"index_n_heads", 64},
          {"initializer_range", 0.02},
          {"max_position_embeddings", 1048576},
          {"n_shared_experts", 1},
          {"norm_topk_prob", true},
          {"num_experts_per_tok", 6},
          {"num_hash_layers", 3},
          {"num_key_value_heads", 1},
          {"num_nextn_predict_layers", 1},
          {"o_lora_rank", 1024},
          {"qk_rope_head_dim", 64},
          {"quantization_config",
           {{"activation_scheme", "dynamic"},
            {"fmt", "e4m3"},
            {"quant_method", "fp8"},
            {"scale_fmt", "ue8m0"},
            {"weight_block_size", {128, 128}}}},
          {"rms_norm_eps", 1e-6},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 16},
            {"original_max_position_embeddings", 65536},
            {"beta_fast", 32},
            {"beta_slow", 1}}},
          {"rope_theta", 10000},
          {"compress_rope_theta", 160000},
          {"scoring_func", "sqrtsoftplus"},
          {"sliding_window", 128},
          {"swiglu_limit", 10.0},
          {"tie_word_embeddings", false},
          {"topk_method", "noaux_tc"},
          {"torch_dtype", "bfloat16"},
          {"transformers_version", "4.57.1"},
          {"use_cache", true},
          {"vocab_size", 129280}};
}

// Two layers of one kind, then CSA (4) and HCA (128) in turn, then the draft layer's 0.
std::vector<int> alternating_ratios(int first_two, int layers) {
  std::vector<int> ratios = {first_two, first_two};
  for (int layer = 2; layer < layers; ++layer) ratios.push_back(layer % 2 == 0 ? 4 : 128);
  ratios.push_back(0);
  return ratios;
}

}  // namespace

Json v4_pro_config() {
  Json config = common_config();
  config.update({{"hidden_size", 7168},
                 {"num_hidden_layers", 61},
                 {"num_attention_heads", 128},
                 {"q_lora_rank", 1536},
                 {"o_groups", 16},
                 {"moe_intermediate_size", 3072},
                 {"n_routed_experts", 384},
                 {"routed_scaling_factor", 2.5},
                 {"index_topk", 1024},
                 {"compress_ratios", alternating_ratios(128, 61)}});
  return config;
}

Json v4_flash_config() {
  Json config = common_config();
  config.update({{"hidden_size", 4096},
                 {"num_hidden_layers", 43},
                 {"num_attention_heads", 64},
                 {"q_lora_rank", 1024},
                 {"o_groups", 8},
                 {"moe_intermediate_size", 2048},
                 {"n_routed_experts", 256},
                 {"routed_scaling_factor", 1.5},
                 {"index_topk", 512},
                 {"compress_ratios", alternating_ratios(0, 43)}});
  return config;
}

// Short enough that rows of some hundred tokens leave the window and make the indexer choose.
Json v4_tiny_config() {
  Json config = common_config();
  config.update({{"hidden_size", 256},
                 {"num_hidden_layers", 5},
                 {"num_attention_heads", 4},
                 {"head_dim", 128},
                 {"q_lora_rank", 128},
                 {"o_groups", 2},
                 {"o_lora_rank", 64},
                 {"moe_intermediate_size", 128},
                 {"n_routed_experts", 8},
                 {"num_experts_per_tok", 2},
                 {"num_hash_layers", 2},
                 {"routed_scaling_factor", 1.5},
                 {"index_n_heads", 4},
                 {"index_head_dim", 64},
                 {"index_topk", 32},
                 {"sliding_window", 64},
                 {"max_position_embeddings", 8192},
                 {"vocab_size", 1024},
                 {"compress_ratios", {0, 128, 4, 128, 4, 0}}});
  config["rope_scaling"]["original_max_position_embeddings"] = 512;
  return config;
}

}  // namespace nibblecast
