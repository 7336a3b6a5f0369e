// Families with Kimi's delta attention on most layers, and latent attention without positions on the others.
// (transformers 5.23, models/kimi_linear, models/glm5_next, conversion_mapping.py)
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/integers.h"
#include "model/families/weights_only_rows.h"

namespace nibblecast {
namespace {

using enum Line;

constexpr TableLine kNorms[] = {
    {kVector, "input_layernorm.weight", "hidden", Role::kInputNorm},
    {kVector, "post_attention_layernorm.weight", "hidden", Role::kFfnNorm},
};

// Everything that reads the layer's input shares a scale.
constexpr TableLine kDeltaAttention[] = {
    {kLinear, "self_attn.q_proj", "delta_heads*delta, hidden", Role::kQ, "attn.in<input_layernorm"},
    {kLinear, "self_attn.k_proj", "delta_heads*delta, hidden", Role::kK, "attn.in"},
    {kLinear, "self_attn.v_proj", "delta_heads*delta, hidden", Role::kV, "attn.in"},
    {kLinear, "self_attn.b_proj", "delta_heads, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.f_a_proj", "delta, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.f_b_proj", "delta_heads*delta, delta", Role::kMixerOther, "attn.f"},
    {kLinear, "self_attn.g_a_proj", "delta, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.g_b_proj", "delta_heads*delta, delta", Role::kMixerOther, "attn.g"},
    {kLinear, "self_attn.o_proj", "hidden, delta_heads*delta", Role::kO, "attn.out"},
    {kFilter, "self_attn.q_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kFilter, "self_attn.k_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kFilter, "self_attn.v_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kVector, "self_attn.dt_bias", "delta_heads*delta", Role::kStepBias},
    {kVector, "self_attn.o_norm.weight", "delta", Role::kOutNorm},
};
constexpr TableLine kKimiDecay[] = {{kVector, "self_attn.A_log", "1, 1, delta_heads, 1", Role::kDecayLog}};
constexpr TableLine kGlmDecay[] = {{kVector, "self_attn.A_log", "delta_heads", Role::kDecayLog}};

constexpr TableLine kLatentKeys[] = {
    {kLinear, "self_attn.kv_a_proj_with_mqa", "kv_rank+rope, hidden", Role::kKvA, "attn.in<input_layernorm"},
    {kVector, "self_attn.kv_a_layernorm.weight", "kv_rank", Role::kKvRankNorm},
    {kLinear, "self_attn.kv_b_proj", "heads*nope+heads*value, kv_rank", Role::kKvB,
     "attn.kv_rank<self_attn.kv_a_layernorm"},
    {kLinear, "self_attn.o_proj", "hidden, heads*value", Role::kO, "attn.out"},
};
constexpr TableLine kQueries[] = {
    {kLinear, "self_attn.q_proj", "heads*nope+heads*rope, hidden", Role::kQ, "attn.in<input_layernorm"},
};
constexpr TableLine kLatentQueries[] = {
    {kLinear, "self_attn.q_a_proj", "q_rank, hidden", Role::kQA, "attn.in<input_layernorm"},
    {kVector, "self_attn.q_a_layernorm.weight", "q_rank", Role::kQRankNorm},
    {kLinear, "self_attn.q_b_proj", "heads*nope+heads*rope, q_rank", Role::kQB,
     "attn.q_rank<self_attn.q_a_layernorm"},
};
constexpr TableLine kIndexer[] = {
    {kLinear, "self_attn.indexer.wq_b", "index_heads*index_width, q_rank", Role::kIndexQ, "attn.q_rank"},
    {kLinear, "self_attn.indexer.wk", "index_width, hidden", Role::kIndexK, "attn.in"},
    {kLinear, "self_attn.indexer.weights_proj", "index_heads, hidden", Role::kIndexWeights, "attn.in"},
    {kVector, "self_attn.indexer.k_norm.weight", "index_width"},
    {kVector, "self_attn.indexer.k_norm.bias", "index_width"},
    {kTable, "self_attn.indexer.index_kpool_compress_ape", "index_pool, index_width"},
    {kTable, "self_attn.indexer.index_kpool_compress_gate", "index_width, hidden"},
};

constexpr TableLine kMlp[] = {
    {kLinear, "mlp.gate_proj", "inner, hidden", Role::kGate, "ffn.in<post_attention_layernorm"},
    {kLinear, "mlp.up_proj", "inner, hidden", Role::kUp, "ffn.in"},
    {kLinear, "mlp.down_proj", "hidden, inner", Role::kDown, "ffn.mid"},
};
constexpr TableLine kKimiRouter[] = {
    {kRouter, "block_sparse_moe.gate", "experts, hidden", Role::kRouter, "ffn.in<post_attention_layernorm"},
    {kVector, "block_sparse_moe.gate.e_score_correction_bias", "experts", Role::kRouterBias},
};
constexpr TableLine kKimiExperts[] = {
    {kExpert, "block_sparse_moe.experts.#.w1", "expert_inner, hidden", Role::kGate,
     "experts.in<post_attention_layernorm"},
    {kExpert, "block_sparse_moe.experts.#.w3", "expert_inner, hidden", Role::kUp, "experts.in"},
    {kExpert, "block_sparse_moe.experts.#.w2", "hidden, expert_inner", Role::kDown, "experts.mid"},
};
constexpr TableLine kGlmMoe[] = {
    {kRouter, "mlp.gate", "experts, hidden", Role::kRouter, "ffn.in<post_attention_layernorm"},
    {kVector, "mlp.gate.e_score_correction_bias", "experts", Role::kRouterBias},
    {kLinear, "mlp.shared_experts.gate_proj", "shared_inner, hidden", Role::kGate, "ffn.in", false, true},
    {kLinear, "mlp.shared_experts.up_proj", "shared_inner, hidden", Role::kUp, "ffn.in", false, true},
    {kLinear, "mlp.shared_experts.down_proj", "hidden, shared_inner", Role::kDown, "shared.mid", false, true},
    {kExpert, "mlp.experts.#.gate_proj", "expert_inner, hidden", Role::kGate,
     "experts.in<post_attention_layernorm"},
    {kExpert, "mlp.experts.#.up_proj", "expert_inner, hidden", Role::kUp, "experts.in"},
    {kExpert, "mlp.experts.#.down_proj", "hidden, expert_inner", Role::kDown, "experts.mid"},
};
// As in DeepSeek-V4.
constexpr TableLine kHyperConnections[] = {
    {kTable, "hc_attn_fn", "2*streams+streams*streams, streams*hidden"},
    {kVector, "hc_attn_base", "2*streams+streams*streams"},
    {kVector, "hc_attn_scale", "3"},
    {kTable, "hc_ffn_fn", "2*streams+streams*streams, streams*hidden"},
    {kVector, "hc_ffn_base", "2*streams+streams*streams"},
    {kVector, "hc_ffn_scale", "3"},
};

Sizes latent_sizes(const ConfigReader& config) {
  config.only("attention_bias", false);
  Sizes sizes = read_sizes(config, {{"inner", "intermediate_size"},
                                    {"expert_inner", "moe_intermediate_size"},
                                    {"heads", "num_attention_heads"},
                                    {"kv_rank", "kv_lora_rank"},
                                    {"nope", "qk_nope_head_dim"},
                                    {"value", "v_head_dim"}});
  sizes["rope"] = config.maybe_integer("qk_rope_head_dim", 0, kMaxDimension).value_or(0);
  sizes["q_rank"] = config.maybe_integer("q_lora_rank", 1, kMaxDimension).value_or(0);
  sizes["experts"] = config.integer_of({"num_experts", "n_routed_experts", "num_local_experts"});
  sizes["top"] = config.integer_of({"num_experts_per_token", "num_experts_per_tok"});
  const uint64_t shared =
      config.maybe_integer_of({"num_shared_experts", "n_shared_experts"}, 1, kMaxDimension).value_or(1);
  sizes["shared_inner"] = shared * sizes["expert_inner"];
  return sizes;
}

// Layers below it are dense, unless a list says it.
bool is_sparse(const ConfigReader& config, uint64_t layer, uint64_t otherwise) {
  if (const auto said = is_word(config, "mlp_layer_types", layer, "sparse", "dense")) return *said;
  config.only("moe_layer_freq", 1);
  return layer >= config.maybe_integer("first_k_dense_replace", 0, kMaxLayers).value_or(otherwise);
}

void add_latent(const Sizes& sizes, Blocks& blocks) {
  if (sizes.at("q_rank") > 0)
    blocks.emplace_back(kLatentQueries);
  else
    blocks.emplace_back(kQueries);
  blocks.emplace_back(kLatentKeys);
}

// ---- Kimi-Linear ----

Sizes kimi_sizes(const ConfigReader& config) {
  Sizes sizes = latent_sizes(config);
  if (const auto nested = config.maybe_section("linear_attn_config")) {
    add_sizes(*nested,
              {{"delta", "head_dim"}, {"delta_heads", "num_heads"}, {"taps", "short_conv_kernel_size"}},
              sizes);
  } else {
    add_sizes(config,
              {{"delta", "linear_head_dim"},
               {"delta_heads", "linear_num_heads"},
               {"taps", "linear_conv_kernel_dim"}},
              sizes);
  }
  return sizes;
}

// The release's list counts from 1.
bool is_kimi_delta(const ConfigReader& config, uint64_t layer) {
  if (const auto said = is_word(config, "layer_types", layer, "linear_attention", "full_attention"))
    return *said;
  const auto nested = config.maybe_section("linear_attn_config");
  if (!nested) config.refuse_missing("layer_types");
  const auto holds = [&](const char* key) {
    const Json* const list = nested->maybe_array(key, 0);
    return list != nullptr && std::ranges::find(*list, Json(layer + 1)) != list->end();
  };
  const bool delta = holds("kda_layers");
  if (delta == holds("full_attn_layers"))
    nested->refuse_value("kda_layers", "each layer in it or in full_attn_layers, counted from 1",
                         "layer " + std::to_string(layer + 1) + (delta ? " in both" : " in neither"));
  return delta;
}

Blocks kimi_layer(const ConfigReader& config, uint64_t layer, Sizes& sizes) {
  Blocks blocks = {kNorms};
  if (is_kimi_delta(config, layer)) {
    blocks.emplace_back(kDeltaAttention);
    blocks.emplace_back(kKimiDecay);
  } else {
    add_latent(sizes, blocks);
  }
  if (is_sparse(config, layer, 0))
    blocks.insert(blocks.end(), {kKimiRouter, kSparseMoeShared, kKimiExperts});
  else
    blocks.emplace_back(kMlp);
  return blocks;
}

// ---- Kimi-K3 ----
// (Moonshot's modeling_kimi_linear.py as llm-compressor 0.14 has it, modeling/kimi_k3; the release's headers)

constexpr TableLine kResiduals[] = {
    {kVector, "self_attention_res_norm.weight", "hidden"},
    {kTable, "self_attention_res_proj.weight", "1, hidden"},
    {kVector, "mlp_res_norm.weight", "hidden"},
    {kTable, "mlp_res_proj.weight", "1, hidden"},
};
constexpr TableLine kOutputResidual[] = {
    {kVector, "output_attn_res_norm.weight", "hidden"},
    {kTable, "output_attn_res_proj.weight", "1, hidden"},
};
// The gate of the output has its full rank.
constexpr TableLine kK3DeltaAttention[] = {
    {kLinear, "self_attn.q_proj", "delta_heads*delta, hidden", Role::kQ, "attn.in<input_layernorm"},
    {kLinear, "self_attn.k_proj", "delta_heads*delta, hidden", Role::kK, "attn.in"},
    {kLinear, "self_attn.v_proj", "delta_heads*delta, hidden", Role::kV, "attn.in"},
    {kLinear, "self_attn.b_proj", "delta_heads, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.f_a_proj", "delta, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.f_b_proj", "delta_heads*delta, delta", Role::kMixerOther, "attn.f"},
    {kLinear, "self_attn.g_proj", "delta_heads*delta, hidden", Role::kMixerOther, "attn.in"},
    {kLinear, "self_attn.o_proj", "hidden, delta_heads*delta", Role::kO, "attn.out"},
    {kFilter, "self_attn.q_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kFilter, "self_attn.k_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kFilter, "self_attn.v_conv1d.weight", "delta_heads*delta, 1, taps", Role::kFilter},
    {kVector, "self_attn.A_log", "decays", Role::kDecayLog},
    {kVector, "self_attn.dt_bias", "delta_heads*delta", Role::kStepBias},
    {kVector, "self_attn.o_norm.weight", "delta", Role::kOutNorm},
};
constexpr TableLine kLatentGate[] = {
    {kLinear, "self_attn.g_proj", "heads*value, hidden", Role::kMixerOther, "attn.in"},
};
// Experts read a latent.
constexpr TableLine kK3Experts[] = {
    {kLinear, "block_sparse_moe.routed_expert_down_proj", "latent, hidden", Role::kMixerOther,
     "latent.in<post_attention_layernorm"},
    {kLinear, "block_sparse_moe.routed_expert_up_proj", "hidden, latent", Role::kMixerOther, "latent.out"},
    {kVector, "block_sparse_moe.routed_expert_norm.weight", "latent"},
    {kExpert, "block_sparse_moe.experts.#.w1", "expert_inner, latent", Role::kGate, "experts.in"},
    {kExpert, "block_sparse_moe.experts.#.w3", "expert_inner, latent", Role::kUp, "experts.in"},
    {kExpert, "block_sparse_moe.experts.#.w2", "latent, expert_inner", Role::kDown, "experts.mid"},
};

Sizes k3_sizes(const ConfigReader& config) {
  constexpr uint64_t kDecaysAtOnce = 128;  // the release has zeros behind the heads'
  Sizes sizes = kimi_sizes(config);
  if (sizes["q_rank"] == 0) config.refuse_missing("q_lora_rank");
  sizes["latent"] = config.integer("routed_expert_hidden_size");
  sizes["decays"] = ceil_div(sizes["delta_heads"], kDecaysAtOnce) * kDecaysAtOnce;
  return sizes;
}

Blocks k3_layer(const ConfigReader& config, uint64_t layer, Sizes& sizes) {
  Blocks blocks = {kNorms, kResiduals};
  if (is_kimi_delta(config, layer)) {
    blocks.emplace_back(kK3DeltaAttention);
  } else {
    add_latent(sizes, blocks);
    blocks.emplace_back(kLatentGate);
  }
  if (is_sparse(config, layer, 0))
    blocks.insert(blocks.end(), {kKimiRouter, kSparseMoeShared, kK3Experts});
  else
    blocks.emplace_back(kMlp);
  return blocks;
}

WeightsOnlyRow kimi_k3() {
  return {.model_type = "kimi_k3",
          .lacks = "Kimi's delta attention, residuals that are attended to, and experts of a latent",
          .section = "text_config",
          .section_type = "kimi_linear",
          .prefix = "language_model.model.",
          .head = "language_model.lm_head",
          .other_parts = {"vision_tower.", "mm_projector."},
          .sizes = k3_sizes,
          .layer = k3_layer,
          .globals = [](const ConfigReader&) -> std::span<const TableLine> { return kOutputResidual; }};
}

// ---- GLM-5.3-Flash ----

Sizes glm_sizes(const ConfigReader& config) {
  Sizes sizes = latent_sizes(config);
  if (sizes["q_rank"] == 0) config.refuse_missing("q_lora_rank");
  add_sizes(config,
            {{"delta", "linear_head_dim"},
             {"delta_heads", "linear_num_heads"},
             {"taps", "linear_conv_kernel_dim"},
             {"streams", "hc_mult"},
             {"index_heads", "index_n_heads"},
             {"index_width", "index_head_dim"},
             {"index_pool", "index_kpool"}},
            sizes);
  return sizes;
}

bool is_glm_delta(const ConfigReader& config, uint64_t layer) {
  const Json* const types = config.maybe_array("layer_types", layer + 1);
  if (types == nullptr) return layer % 4 != 3;
  const Json& type = (*types)[layer];
  if (type == "linear_attention") return true;
  if (type != "indexed_attention" && type != "full_attention")
    config.refuse_unsupported("layer_types", "linear_attention or indexed_attention", value_text(type));
  return false;
}

Blocks glm_layer(const ConfigReader& config, uint64_t layer, Sizes& sizes) {
  Blocks blocks = {kNorms, kHyperConnections};
  if (is_glm_delta(config, layer)) {
    blocks.emplace_back(kDeltaAttention);
    blocks.emplace_back(kGlmDecay);
  } else {
    add_latent(sizes, blocks);
    if (is_word(config, "indexer_types", layer, "full", "shared").value_or(true))
      blocks.emplace_back(kIndexer);
  }
  if (is_sparse(config, layer, 3))
    blocks.emplace_back(kGlmMoe);
  else
    blocks.emplace_back(kMlp);
  return blocks;
}

}  // namespace

std::vector<WeightsOnlyRow> linear_attention_rows() {
  const WeightsOnlyRow kimi = {.model_type = "kimi_linear",
                               .lacks = "Kimi's delta attention and latent attention without positions",
                               .sizes = kimi_sizes,
                               .layer = kimi_layer};
  const WeightsOnlyRow glm = {.model_type = "glm5_next_text",
                              .lacks = "Kimi's delta attention, hyper-connections and an indexer of pools",
                              .drafts_key = "num_nextn_predict_layers",
                              .sizes = glm_sizes,
                              .layer = glm_layer};
  return {kimi, kimi_k3(), glm, within(glm, "glm5_next", "model.language_model.", {"model.visual.", "mtp."})};
}

}  // namespace nibblecast
