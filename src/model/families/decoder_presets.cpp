#include "model/families/decoder_presets.h"

#include <string>
#include <utility>

namespace nibblecast {
namespace {

Json with(Json config, const Json& changes) {
  config.update(changes);
  return config;
}

// What all releases say the same.
Json common(const char* model_type, const char* architecture) {
  return {{"architectures", {architecture}}, {"model_type", model_type},
          {"attention_dropout", 0.0},        {"hidden_act", "silu"},
          {"initializer_range", 0.02},       {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"},       {"use_cache", true}};
}

// Sizes that every decoder has.
Json sizes(int layers, int hidden, int intermediate, int heads, int kv_heads) {
  return {{"num_hidden_layers", layers},
          {"hidden_size", hidden},
          {"intermediate_size", intermediate},
          {"num_attention_heads", heads},
          {"num_key_value_heads", kv_heads}};
}

Json qwen3(const char* model_type, const char* architecture, const Json& sizes) {
  Json config = common(model_type, architecture);
  config.update({{"attention_bias", false},
                 {"bos_token_id", 151643},
                 {"eos_token_id", 151645},
                 {"head_dim", 128},
                 {"max_position_embeddings", 40960},
                 {"rms_norm_eps", 1e-6},
                 {"rope_scaling", nullptr},
                 {"rope_theta", 1000000},
                 {"sliding_window", nullptr},
                 {"transformers_version", "4.51.0"},
                 {"use_sliding_window", false},
                 {"vocab_size", 151936}});
  config.update(sizes);
  config["max_window_layers"] = config["num_hidden_layers"];
  return config;
}

Json qwen3_dense(const Json& sizes) { return qwen3("qwen3", "Qwen3ForCausalLM", sizes); }

Json qwen3_moe(const Json& sizes, int experts, int top, int width) {
  Json config = qwen3("qwen3_moe", "Qwen3MoeForCausalLM", sizes);
  config.update({{"decoder_sparse_step", 1},
                 {"mlp_only_layers", Json::array()},
                 {"moe_intermediate_size", width},
                 {"norm_topk_prob", true},
                 {"num_experts", experts},
                 {"num_experts_per_tok", top},
                 {"output_router_logits", false},
                 {"router_aux_loss_coef", 0.001}});
  return config;
}

Json llama_3(const Json& sizes) {
  Json config = common("llama", "LlamaForCausalLM");
  config.update({{"attention_bias", false},
                 {"bos_token_id", 128000},
                 {"eos_token_id", {128001, 128008, 128009}},
                 {"max_position_embeddings", 131072},
                 {"mlp_bias", false},
                 {"pretraining_tp", 1},
                 {"rms_norm_eps", 1e-5},
                 {"rope_scaling",
                  {{"factor", 8.0},
                   {"low_freq_factor", 1.0},
                   {"high_freq_factor", 4.0},
                   {"original_max_position_embeddings", 8192},
                   {"rope_type", "llama3"}}},
                 {"rope_theta", 500000.0},
                 {"vocab_size", 128256}});
  config.update(sizes);
  return config;
}

Json glm_4(const Json& sizes, int dense_layers, int experts, int width) {
  Json config = common("glm4_moe", "Glm4MoeForCausalLM");
  config.update({{"attention_bias", true},
                 {"eos_token_id", {151329, 151336, 151338}},
                 {"first_k_dense_replace", dense_layers},
                 {"head_dim", 128},
                 {"max_position_embeddings", 131072},
                 {"moe_intermediate_size", width},
                 {"n_group", 1},
                 {"n_routed_experts", experts},
                 {"n_shared_experts", 1},
                 {"norm_topk_prob", true},
                 {"num_experts_per_tok", 8},
                 {"num_nextn_predict_layers", 1},
                 {"pad_token_id", 151329},
                 {"partial_rotary_factor", 0.5},
                 {"rms_norm_eps", 1e-5},
                 {"rope_scaling", nullptr},
                 {"rope_theta", 1000000},
                 {"routed_scaling_factor", 1.0},
                 {"topk_group", 1},
                 {"use_qk_norm", false},
                 {"vocab_size", 151552}});
  config.update(sizes);
  return config;
}

Json latent_attention(int q_rank, int kv_rank, int nope, int rope, int value) {
  return {{"q_lora_rank", q_rank},
          {"kv_lora_rank", kv_rank},
          {"qk_nope_head_dim", nope},
          {"qk_rope_head_dim", rope},
          {"v_head_dim", value}};
}

Json deepseek(const char* model_type, const Json& sizes, int experts) {
  Json config = common(model_type, "DeepseekV3ForCausalLM");
  config.update({{"attention_bias", false},
                 {"bos_token_id", 0},
                 {"eos_token_id", 1},
                 {"first_k_dense_replace", 3},
                 {"max_position_embeddings", 163840},
                 {"moe_intermediate_size", 2048},
                 {"moe_layer_freq", 1},
                 {"n_group", 8},
                 {"n_routed_experts", experts},
                 {"n_shared_experts", 1},
                 {"norm_topk_prob", true},
                 {"num_experts_per_tok", 8},
                 {"num_nextn_predict_layers", 1},
                 {"rms_norm_eps", 1e-6},
                 {"rope_scaling",
                  {{"beta_fast", 32},
                   {"beta_slow", 1},
                   {"factor", 40},
                   {"mscale", 1.0},
                   {"mscale_all_dim", 1.0},
                   {"original_max_position_embeddings", 4096},
                   {"type", "yarn"}}},
                 {"rope_theta", 10000},
                 {"routed_scaling_factor", 2.5},
                 {"scoring_func", "sigmoid"},
                 {"topk_group", 4},
                 {"topk_method", "noaux_tc"},
                 {"vocab_size", 129280}});
  config.update(latent_attention(1536, 512, 128, 64, 128));
  config.update(sizes);
  return config;
}

// Delta nets, and every fourth layer of full attention.
Json qwen_hybrid(Json config, const Json& sizes, int value_heads) {
  config.update(sizes);
  Json types = Json::array();
  for (int layer = 1; layer <= config["num_hidden_layers"]; ++layer)
    types.push_back(layer % 4 == 0 ? "full_attention" : "linear_attention");
  config.update({{"attention_bias", false},
                 {"full_attention_interval", 4},
                 {"head_dim", 256},
                 {"layer_types", types},
                 {"linear_conv_kernel_dim", 4},
                 {"linear_key_head_dim", 128},
                 {"linear_num_key_heads", 16},
                 {"linear_num_value_heads", value_heads},
                 {"linear_value_head_dim", 128},
                 {"max_position_embeddings", 262144},
                 {"rms_norm_eps", 1e-6}});
  return config;
}

Json qwen_hybrid_experts(int experts, int top, int width) {
  return {{"moe_intermediate_size", width}, {"num_experts", experts},
          {"num_experts_per_tok", top},     {"output_router_logits", false},
          {"router_aux_loss_coef", 0.001},  {"shared_expert_intermediate_size", width}};
}

// The text model, and what is around it; `type`: of the latter.
Json qwen3_5(const std::string& type, const char* architecture, const Json& sizes, int value_heads,
             const Json& experts) {
  Json text = {{"model_type", type + "_text"}, {"attention_dropout", 0.0},
               {"attn_output_gate", true},     {"dtype", "bfloat16"},
               {"eos_token_id", 248044},       {"hidden_act", "silu"},
               {"initializer_range", 0.02},    {"mamba_ssm_dtype", "float32"},
               {"mtp_num_hidden_layers", 1},   {"use_cache", true},
               {"vocab_size", 248320}};
  text["rope_parameters"] = {{"mrope_interleaved", true},
                             {"mrope_section", {11, 11, 10}},
                             {"partial_rotary_factor", 0.25},
                             {"rope_theta", 10000000},
                             {"rope_type", "default"}};
  text = qwen_hybrid(std::move(text), sizes, value_heads);
  text.update(experts);
  return {{"architectures", {architecture}},
          {"model_type", type},
          {"text_config", std::move(text)},
          {"tie_word_embeddings", false},
          {"transformers_version", "4.57.0.dev0"}};
}
Json qwen3_5_dense(const Json& sizes, int value_heads) {
  return qwen3_5("qwen3_5", "Qwen3_5ForConditionalGeneration", sizes, value_heads, Json::object());
}
Json qwen3_5_moe(Json sizes, int value_heads, const Json& experts) {
  sizes.erase("intermediate_size");
  return qwen3_5("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", sizes, value_heads, experts);
}

// Of a size at which a demonstration takes seconds.
const Json& tiny() {
  static const Json kTiny = {{"bos_token_id", 0},
                             {"eos_token_id", 1},
                             {"head_dim", 64},
                             {"max_position_embeddings", 8192},
                             {"vocab_size", 4096}};
  return kTiny;
}

// Four layers, the last one of full attention.
Json tiny_hybrid(Json config) {
  Json& text = config["text_config"];
  text.update(tiny());
  text.update({{"linear_key_head_dim", 64}, {"linear_num_key_heads", 2}, {"linear_value_head_dim", 64}});
  return config;
}

}  // namespace

Json qwen3_8b_config() { return qwen3_dense(sizes(36, 4096, 12288, 32, 8)); }
Json qwen3_32b_config() { return qwen3_dense(sizes(64, 5120, 25600, 64, 8)); }
Json qwen3_30b_a3b_config() { return qwen3_moe(sizes(48, 2048, 6144, 32, 4), 128, 8, 768); }
Json qwen3_235b_a22b_config() { return qwen3_moe(sizes(94, 4096, 12288, 64, 4), 128, 8, 1536); }

Json llama_3_1_8b_config() {
  return with(llama_3(sizes(32, 4096, 14336, 32, 8)), {{"eos_token_id", 128001}});
}
Json llama_3_3_70b_config() { return with(llama_3(sizes(80, 8192, 28672, 64, 8)), {{"head_dim", 128}}); }

Json mixtral_8x7b_config() {
  return with(with(common("mixtral", "MixtralForCausalLM"), sizes(32, 4096, 14336, 32, 8)),
              {{"bos_token_id", 1},
               {"eos_token_id", 2},
               {"max_position_embeddings", 32768},
               {"num_experts_per_tok", 2},
               {"num_local_experts", 8},
               {"output_router_logits", false},
               {"rms_norm_eps", 1e-5},
               {"rope_theta", 1000000.0},
               {"router_aux_loss_coef", 0.02},
               {"sliding_window", nullptr},
               {"vocab_size", 32000}});
}

Json glm_4_5_air_config() { return glm_4(sizes(46, 4096, 10944, 96, 8), 1, 128, 1408); }
Json glm_4_6_config() {
  return with(glm_4(sizes(92, 5120, 12288, 96, 8), 3, 160, 1536),
              {{"max_position_embeddings", 202752}, {"routed_scaling_factor", 2.5}, {"use_qk_norm", true}});
}

Json deepseek_v3_config() { return deepseek("deepseek_v3", sizes(61, 7168, 18432, 128, 128), 256); }
Json deepseek_v32_config() {
  return with(deepseek("deepseek_v32", sizes(61, 7168, 18432, 128, 128), 256),
              {{"architectures", {"DeepseekV32ForCausalLM"}},
               {"index_head_dim", 128},
               {"index_n_heads", 64},
               {"index_topk", 2048}});
}
Json kimi_k2_config() {
  Json config = deepseek("kimi_k2", sizes(61, 7168, 18432, 64, 64), 384);
  config["rope_scaling"].update({{"beta_fast", 1.0}, {"factor", 32.0}});
  return with(config, {{"bos_token_id", 163584},
                       {"eos_token_id", 163585},
                       {"first_k_dense_replace", 1},
                       {"max_position_embeddings", 131072},
                       {"n_group", 1},
                       {"rms_norm_eps", 1e-5},
                       {"num_nextn_predict_layers", 0},
                       {"rope_theta", 50000.0},
                       {"routed_scaling_factor", 2.827},
                       {"topk_group", 1},
                       {"vocab_size", 163840}});
}

Json qwen3_next_80b_a3b_config() {
  Json config = with(common("qwen3_next", "Qwen3NextForCausalLM"), {{"bos_token_id", 151643},
                                                                    {"decoder_sparse_step", 1},
                                                                    {"eos_token_id", 151645},
                                                                    {"mlp_only_layers", Json::array()},
                                                                    {"norm_topk_prob", true},
                                                                    {"partial_rotary_factor", 0.25},
                                                                    {"rope_scaling", nullptr},
                                                                    {"rope_theta", 10000000},
                                                                    {"vocab_size", 151936}});
  return with(qwen_hybrid(std::move(config), sizes(48, 2048, 5120, 16, 2), 32),
              qwen_hybrid_experts(512, 10, 512));
}
Json qwen3_5_27b_config() { return qwen3_5_dense(sizes(64, 5120, 17408, 24, 4), 48); }
Json qwen3_5_35b_a3b_config() {
  return qwen3_5_moe(sizes(40, 2048, 0, 16, 2), 32, qwen_hybrid_experts(256, 8, 512));
}
Json qwen3_5_397b_a17b_config() {
  return qwen3_5_moe(sizes(60, 4096, 0, 32, 2), 64, qwen_hybrid_experts(512, 10, 1024));
}

Json qwen3_tiny_config() {
  return with(with(qwen3_dense(sizes(4, 256, 512, 4, 2)), tiny()), {{"tie_word_embeddings", true}});
}
Json qwen3_moe_tiny_config() {
  return with(with(qwen3_moe(sizes(4, 256, 512, 4, 2), 16, 4, 128), tiny()), {{"mlp_only_layers", {0}}});
}
Json qwen3_5_tiny_config() { return tiny_hybrid(qwen3_5_dense(sizes(4, 256, 512, 4, 2), 4)); }
Json qwen3_5_moe_tiny_config() {
  return tiny_hybrid(qwen3_5_moe(sizes(4, 256, 0, 4, 2), 4, qwen_hybrid_experts(16, 4, 128)));
}

Json deepseek_v3_tiny_config() {
  Json config = with(deepseek("deepseek_v3", sizes(4, 256, 512, 4, 4), 16), tiny());
  config.update(latent_attention(128, 64, 64, 32, 64));
  return with(config, {{"first_k_dense_replace", 1},
                       {"moe_intermediate_size", 128},
                       {"n_group", 4},
                       {"num_experts_per_tok", 4},
                       {"num_nextn_predict_layers", 0},
                       {"topk_group", 2}});
}

}  // namespace nibblecast
