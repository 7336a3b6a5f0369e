// MiniMax-M3. (transformers 5.23, models/minimax_m3_vl, conversion_mapping.py)
#include <optional>
#include <utility>

#include "model/families/weights_only_rows.h"

namespace nibblecast {
namespace {

using enum Line;

constexpr TableLine kAttention[] = {
    {kVector, "input_layernorm.weight", "hidden", Role::kInputNorm},
    {kLinear, "self_attn.q_proj", "heads*width, hidden", Role::kQ, "attn.in<input_layernorm"},
    {kLinear, "self_attn.k_proj", "kv_heads*width, hidden", Role::kK, "attn.in"},
    {kLinear, "self_attn.v_proj", "kv_heads*width, hidden", Role::kV, "attn.in"},
    {kLinear, "self_attn.o_proj", "hidden, heads*width", Role::kO, "attn.out"},
    {kVector, "self_attn.q_norm.weight", "width", Role::kQNorm},
    {kVector, "self_attn.k_norm.weight", "width", Role::kKNorm},
    {kVector, "post_attention_layernorm.weight", "hidden", Role::kFfnNorm},
};
// Chooses blocks of keys.
constexpr TableLine kIndexer[] = {
    {kLinear, "self_attn.index_q_proj", "index_heads*index_width, hidden", Role::kIndexQ, "attn.in"},
    {kLinear, "self_attn.index_k_proj", "index_width, hidden", Role::kIndexK, "attn.in"},
    {kVector, "self_attn.index_q_norm.weight", "index_width"},
    {kVector, "self_attn.index_k_norm.weight", "index_width"},
};
constexpr TableLine kMlp[] = {
    {kLinear, "mlp.gate_proj", "dense_inner, hidden", Role::kGate, "ffn.in<post_attention_layernorm"},
    {kLinear, "mlp.up_proj", "dense_inner, hidden", Role::kUp, "ffn.in"},
    {kLinear, "mlp.down_proj", "hidden, dense_inner", Role::kDown, "ffn.mid"},
};
constexpr TableLine kRouterRows[] = {
    {kRouter, "block_sparse_moe.gate", "experts, hidden", Role::kRouter, "ffn.in<post_attention_layernorm"},
    {kVector, "block_sparse_moe.e_score_correction_bias", "experts", Role::kRouterBias},
};
constexpr TableLine kExperts[] = {
    {kExpert, "block_sparse_moe.experts.#.w1", "inner, hidden", Role::kGate,
     "experts.in<post_attention_layernorm"},
    {kExpert, "block_sparse_moe.experts.#.w3", "inner, hidden", Role::kUp, "experts.in"},
    {kExpert, "block_sparse_moe.experts.#.w2", "hidden, inner", Role::kDown, "experts.mid"},
};

Sizes sizes_of(const ConfigReader& config) {
  Sizes sizes = read_sizes(config, {{"heads", "num_attention_heads"},
                                    {"kv_heads", "num_key_value_heads"},
                                    {"width", "head_dim"},
                                    {"inner", "intermediate_size"},
                                    {"dense_inner", "dense_intermediate_size"},
                                    {"shared_inner", "shared_intermediate_size"},
                                    {"top", "num_experts_per_tok"}});
  sizes["experts"] = config.integer_of({"num_local_experts", "num_experts"});
  const std::optional<ConfigReader> nested = config.maybe_section("sparse_attention_config");
  const auto number = [&](const char* key, const char* nested_key, uint64_t otherwise) {
    if (const auto inner = nested ? nested->maybe_integer(nested_key, 1, kMaxDimension) : std::nullopt)
      return *inner;
    return integer_or(config, key, otherwise);
  };
  sizes["index_heads"] = number("index_n_heads", "sparse_num_index_heads", 4);
  sizes["index_width"] = number("index_head_dim", "sparse_index_dim", 128);
  return sizes;
}

// Entry `layer` of a list of 0 and 1; nothing without one.
std::optional<bool> is_one(const std::optional<ConfigReader>& config, const char* key, uint64_t layer) {
  const Json* const list = config ? config->maybe_array(key, layer + 1) : nullptr;
  if (list == nullptr) return std::nullopt;
  const Json& found = (*list)[layer];
  if (found != 0 && found != 1) config->refuse_value(key, "0 or 1 for each layer", value_text(found));
  return found == 1;
}

Blocks layer_of(const ConfigReader& config, uint64_t layer, Sizes&) {
  Blocks blocks = {kAttention};
  auto indexed = is_word(config, "layer_types", layer, "minimax_m3_sparse", "full_attention");
  if (!indexed)
    indexed = is_one(config.maybe_section("sparse_attention_config"), "sparse_attention_freq", layer);
  if (indexed.value_or(false)) blocks.emplace_back(kIndexer);
  auto sparse = is_word(config, "mlp_layer_types", layer, "sparse", "dense");
  if (!sparse) sparse = is_one(config, "moe_layer_freq", layer);
  if (sparse.value_or(true))
    blocks.insert(blocks.end(), {kRouterRows, kSparseMoeShared, kExperts});
  else
    blocks.emplace_back(kMlp);
  return blocks;
}

}  // namespace

std::vector<WeightsOnlyRow> minimax_m3_rows() {
  const WeightsOnlyRow text = {.model_type = "minimax_m3_vl_text",
                               .lacks = "clamped gates of its own and attention over blocks",
                               .plus_one = true,
                               .sizes = sizes_of,
                               .layer = layer_of};
  WeightsOnlyRow outer = within(text, "minimax_m3_vl", "language_model.model.",
                                {"vision_tower.", "multi_modal_projector.", "patch_merge_mlp.", "mtp."});
  outer.head = "language_model.lm_head";
  return {text, outer};
}

}  // namespace nibblecast
