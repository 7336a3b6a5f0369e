#include "model/families/decoder_row.h"

#include <algorithm>
#include <utility>

namespace nibblecast {
namespace {

// Mixtral's names, which MiniMax took over.
MoeNames mixtral_names(std::string_view router_bias) {
  return {.block = "block_sparse_moe", .router_bias = router_bias, .gate = "w1", .up = "w3", .down = "w2"};
}

DecoderRow llama() {
  return {.model_type = "llama",
          .kv_heads_optional = true,
          .qkv_bias = {"attention_bias"},
          .o_bias = {"attention_bias"},
          .mlp_bias = {"mlp_bias"}};
}

DecoderRow mistral() { return {.model_type = "mistral", .windows = Windows::kAll, .window = 4096}; }

DecoderRow ministral3() { return {.model_type = "ministral3", .eps = 1e-5, .windows = Windows::kAll}; }

DecoderRow qwen2() {
  return {.model_type = "qwen2", .qkv_bias = {"", true}, .windows = Windows::kLateIfUsed, .window = 4096};
}

DecoderRow qwen3() {
  return {.model_type = "qwen3",
          .head_dim = 128,
          .qkv_bias = {"attention_bias"},
          .o_bias = {"attention_bias"},
          .head_norms = HeadNorms::kPerHead,
          .windows = Windows::kLateIfUsed,
          .window = 4096};
}

DecoderRow qwen3_moe() {
  return {.model_type = "qwen3_moe",
          .qkv_bias = {"attention_bias"},
          .o_bias = {"attention_bias"},
          .head_norms = HeadNorms::kPerHead,
          .windows = Windows::kAllIfUsed,
          .window = 4096,
          .moe = MoeRow{.steps = true, .renormalize = {"norm_topk_prob", false}}};
}

DecoderRow mixtral() {
  return {.model_type = "mixtral",
          .eps = 1e-5,
          .rope = {.theta = 1e6},
          .windows = Windows::kAll,
          .moe = MoeRow{.experts = "num_local_experts",
                        .experts_alias = "num_experts",
                        .width = "intermediate_size",
                        .names = mixtral_names("")}};
}

DecoderRow glm4_moe() {
  const MoeNames names = {.router_bias = "gate.e_score_correction_bias"};
  return {.model_type = "glm4_moe",
          .eps = 1e-5,
          .rope = {.partial = true, .share = 0.5},
          .qkv_bias = {"attention_bias"},
          .head_norms = HeadNorms::kPerHead,
          .has_head_norms = {"use_qk_norm", false},
          .moe = MoeRow{.experts = "n_routed_experts",
                        .shared = "n_shared_experts",
                        .first = {"first_k_dense_replace", 1},
                        .score = RouterScore::kSigmoid,
                        .renormalize = {"norm_topk_prob", true},
                        .scale = {"routed_scaling_factor", 1},
                        .eps = 1e-20f,
                        .groups = true,
                        .names = names,
                        .hub = names},
          .drafts_key = "num_nextn_predict_layers",
          .drafts_alias = "num_mtp_layers",
          .drafts = 1,
          .fixed = {{"scoring_func", "sigmoid"}, {"topk_method", "noaux_tc"}}};
}

DecoderRow minimax_m2() {
  return {.model_type = "minimax_m2",
          .rope = {.theta = 5e6, .partial = true},
          .head_dim = 128,
          .head_norms = HeadNorms::kAll,
          .moe = MoeRow{.experts = "num_local_experts",
                        .experts_alias = "num_experts",
                        .width = "intermediate_size",
                        .score = RouterScore::kSigmoid,
                        .names = mixtral_names("e_score_correction_bias"),
                        .hub = {.router_bias = "e_score_correction_bias"}},
          .drafts_key = "num_mtp_modules",
          .fixed = {{"scoring_func", "sigmoid"},
                    {"use_qk_norm", true},
                    {"qk_norm_type", "per_layer"},
                    {"use_routing_bias", true},
                    {"shared_intermediate_size", 0},
                    {"attn_type_list", 1}}};
}

DecoderRow hy_v3() {
  return {
      .model_type = "hy_v3",
      .eps = 1e-5,
      .rope = {.theta = 11158840},
      .head_dim = 128,
      .qkv_bias = {"attention_bias"},
      .o_bias = {"attention_bias"},
      .mlp_bias = {"mlp_bias"},
      .head_norms = HeadNorms::kPerHead,
      .moe = MoeRow{.width_alias = "expert_hidden_dim",
                    .shared = "num_shared_experts",
                    .first = {"first_k_dense_replace", 1},
                    .layer_types = true,
                    .score = RouterScore::kSigmoid,
                    .scale = {"router_scaling_factor", 2.826},
                    .eps = 1e-20f,
                    .names = {.router = "router.gate", .router_bias = "expert_bias", .shared = "shared_mlp"},
                    .hub = {.router_bias = "e_score_correction_bias"}},
      .drafts_key = "num_nextn_predict_layers"};
}

// DeepSeek-V3's, with what others change of it.
DecoderRow deepseek_v3(std::string_view model_type) {
  const MoeNames names = {.router_bias = "gate.e_score_correction_bias"};
  return {.model_type = model_type,
          .mla = MlaRow{.interleaved = {"rope_interleave", true}},
          .moe = MoeRow{.experts = "n_routed_experts",
                        .shared = "n_shared_experts",
                        .first = {"first_k_dense_replace", 3},
                        .score = RouterScore::kSigmoid,
                        .renormalize = {"norm_topk_prob", true},
                        .scale = {"routed_scaling_factor", 2.5},
                        .eps = 1e-20f,
                        .groups = true,
                        .n_group = 8,
                        .topk_group = 4,
                        .names = names,
                        .hub = names},
          .drafts_key = "num_nextn_predict_layers",
          .drafts_alias = "num_mtp_layers",
          .drafts = 1,
          .fixed = {{"attention_bias", false},
                    {"mlp_bias", false},
                    {"moe_layer_freq", 1},
                    {"scoring_func", "sigmoid"},
                    {"topk_method", "noaux_tc"}}};
}

DecoderRow deepseek_v32() {
  DecoderRow row = deepseek_v3("deepseek_v32");
  row.mla = MlaRow{.indexed = true};
  row.moe->layer_types = true;
  return row;
}

DecoderRow glm4_moe_lite() {
  DecoderRow row = deepseek_v3("glm4_moe_lite");
  row.eps = 1e-5;
  row.moe->first.otherwise = 1;
  row.moe->layer_types = true;
  row.moe->scale.otherwise = 1.8;
  row.moe->n_group = row.moe->topk_group = 1;
  return row;
}

DecoderRow glm_moe_dsa() {
  DecoderRow row = deepseek_v3("glm_moe_dsa");
  row.eps = 1e-5;
  row.mla = MlaRow{.indexed = true, .shared_indexers = true};
  row.moe->layer_types = true;
  row.moe->n_group = row.moe->topk_group = 1;
  return row;
}

// What Qwen3-Next and Qwen3.5 have in common.
DecoderRow qwen_hybrid(std::string_view model_type, DeltaNetInput input) {
  return {.model_type = model_type,
          .other_parts = {"mtp."},
          .norm = NormWeight::kPlusOne,
          .rope = {.partial = true, .share = 0.25},
          .head_dim = 256,
          .qkv_bias = {"attention_bias"},
          .o_bias = {"attention_bias"},
          .head_norms = HeadNorms::kPerHead,
          .output_gate = true,
          .delta_net = input,
          .fixed = {{"attn_output_gate", true}}};
}

MoeRow qwen_hybrid_moe() {
  const MoeNames names = {.shared = "shared_expert", .shared_gate = "shared_expert_gate"};
  return {.shared_width = "shared_expert_intermediate_size", .names = names, .hub = names};
}

DecoderRow qwen3_next() {
  DecoderRow row = qwen_hybrid("qwen3_next", DeltaNetInput::kByHead);
  row.moe = qwen_hybrid_moe();
  row.moe->steps = true;
  row.moe->renormalize = {"norm_topk_prob", true};
  return row;
}

DecoderRow qwen3_5_text() { return qwen_hybrid("qwen3_5_text", DeltaNetInput::kSplit); }

DecoderRow qwen3_5_moe_text() {
  DecoderRow row = qwen_hybrid("qwen3_5_moe_text", DeltaNetInput::kSplit);
  row.moe = qwen_hybrid_moe();
  row.moe->stacked = true;
  return row;
}

// The same with eyes.
DecoderRow multimodal(DecoderRow text, std::string_view model_type) {
  text.section = "text_config";
  text.section_type = std::exchange(text.model_type, model_type);
  text.prefix = "model.language_model.";
  text.other_parts.push_back("model.visual.");
  return text;
}

// Text models of old kinds within others, whose tensors lie under language_model.
DecoderRow within_llava(DecoderRow text, std::string_view model_type, std::string_view alias) {
  text.section = "text_config";
  text.section_type = std::exchange(text.model_type, model_type);
  text.section_alias = alias;
  text.prefix = "language_model.model.";
  text.head = "language_model.lm_head";
  for (const char* part : {"vision_tower.", "multi_modal_projector.", "mm_projector."})
    text.other_parts.emplace_back(part);
  return text;
}

// Mistral-Small-3.1 and later have `mistral`, Ministral-3 and Medium-3.5 `ministral3`.
DecoderRow mistral3() {
  DecoderRow text = ministral3();
  text.kv_heads_optional = true;
  return within_llava(std::move(text), "mistral3", "mistral");
}

DecoderRow kimi_k25() { return within_llava(deepseek_v3("deepseek_v3"), "kimi_k25", "kimi_k2"); }

}  // namespace

const std::vector<DecoderRow>& decoder_rows() {
  static const std::vector<DecoderRow> kRows = {llama(),
                                                mistral(),
                                                qwen2(),
                                                qwen3(),
                                                qwen3_moe(),
                                                mixtral(),
                                                glm4_moe(),
                                                minimax_m2(),
                                                hy_v3(),
                                                deepseek_v3("deepseek_v3"),  // R1 and V3.1 too
                                                deepseek_v3("kimi_k2"),
                                                deepseek_v32(),
                                                glm4_moe_lite(),
                                                glm_moe_dsa(),
                                                qwen3_next(),
                                                qwen3_5_text(),
                                                qwen3_5_moe_text(),
                                                multimodal(qwen3_5_text(), "qwen3_5"),
                                                multimodal(qwen3_5_moe_text(), "qwen3_5_moe"),
                                                ministral3(),
                                                mistral3(),
                                                kimi_k25()};
  return kRows;
}

const DecoderRow& decoder_row(std::string_view model_type) {
  return *std::ranges::find(decoder_rows(), model_type, &DecoderRow::model_type);
}

}  // namespace nibblecast
