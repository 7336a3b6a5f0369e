// Llama-4. (transformers 5.23, models/llama4)
#include <algorithm>
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
    {kVector, "post_attention_layernorm.weight", "hidden", Role::kFfnNorm},
};
constexpr TableLine kMlp[] = {
    {kLinear, "feed_forward.gate_proj", "dense_inner, hidden", Role::kGate,
     "ffn.in<post_attention_layernorm"},
    {kLinear, "feed_forward.up_proj", "dense_inner, hidden", Role::kUp, "ffn.in"},
    {kLinear, "feed_forward.down_proj", "hidden, dense_inner", Role::kDown, "ffn.mid"},
};
// Experts read their input times the router's weight, which is below one: the norm's bound holds.
constexpr TableLine kMoe[] = {
    {kRouter, "feed_forward.router", "experts, hidden", Role::kRouter, "ffn.in<post_attention_layernorm"},
    {kLinear, "feed_forward.shared_expert.gate_proj", "inner, hidden", Role::kGate, "ffn.in", false, true},
    {kLinear, "feed_forward.shared_expert.up_proj", "inner, hidden", Role::kUp, "ffn.in", false, true},
    {kLinear, "feed_forward.shared_expert.down_proj", "hidden, inner", Role::kDown, "shared.mid", false,
     true},
    {kStack, "feed_forward.experts.gate_up_proj", "experts*2*inner, hidden", Role::kGateUp,
     "experts.in<post_attention_layernorm"},
    {kStack, "feed_forward.experts.down_proj", "experts*hidden, inner", Role::kDown, "experts.mid"},
};

Sizes sizes_of(const ConfigReader& config) {
  config.only("attention_bias", false);
  Sizes sizes = read_sizes(config, {{"heads", "num_attention_heads"},
                                    {"kv_heads", "num_key_value_heads"},
                                    {"width", "head_dim"},
                                    {"inner", "intermediate_size"},
                                    {"dense_inner", "intermediate_size_mlp"},
                                    {"experts", "num_local_experts"}});
  sizes["top"] = integer_or(config, "num_experts_per_tok", 1);
  return sizes;
}

// By a list, else every so many layers.
bool has_experts(const ConfigReader& config, uint64_t layer) {
  if (const Json* const layers = config.maybe_array("moe_layers", 0))
    return std::ranges::find(*layers, Json(layer)) != layers->end();
  return (layer + 1) % integer_or(config, "interleave_moe_layer_step", 1) == 0;
}

Blocks layer_of(const ConfigReader& config, uint64_t layer, Sizes&) {
  if (has_experts(config, layer)) return {kAttention, kMoe};
  return {kAttention, kMlp};
}

}  // namespace

std::vector<WeightsOnlyRow> llama4_rows() {
  const WeightsOnlyRow text = {.model_type = "llama4_text",
                               .lacks = "attention in chunks, scaled queries and experts of a weighted input",
                               .sizes = sizes_of,
                               .layer = layer_of};
  WeightsOnlyRow outer =
      within(text, "llama4", "language_model.model.", {"vision_model.", "multi_modal_projector."});
  outer.head = "language_model.lm_head";
  return {text, outer};
}

}  // namespace nibblecast
