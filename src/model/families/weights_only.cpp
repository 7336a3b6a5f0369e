#include "model/families/weights_only.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "model/families/weights_only_rows.h"

namespace nibblecast {

void add_sizes(const ConfigReader& config, std::initializer_list<SizeKey> keys, Sizes& sizes) {
  for (const SizeKey& each : keys) sizes[each.size] = config.integer(std::string(each.key));
}

Sizes read_sizes(const ConfigReader& config, std::initializer_list<SizeKey> keys) {
  Sizes sizes;
  add_sizes(config, {{"hidden", "hidden_size"}, {"vocab", "vocab_size"}}, sizes);
  add_sizes(config, keys, sizes);
  return sizes;
}

uint64_t integer_or(const ConfigReader& config, const char* key, uint64_t otherwise) {
  return config.maybe_integer(key, 1, kMaxDimension).value_or(otherwise);
}

std::optional<bool> is_word(const ConfigReader& config, const char* key, uint64_t layer,
                            std::string_view word, std::string_view other) {
  const Json* const words = config.maybe_array(key, layer + 1);
  if (words == nullptr) return std::nullopt;
  const Json& found = (*words)[layer];
  if (found != word && found != other)
    config.refuse_unsupported(key, std::string(word) + " or " + std::string(other), value_text(found));
  return found == word;
}

WeightsOnlyRow within(WeightsOnlyRow text, std::string_view model_type, std::string_view prefix,
                      std::vector<std::string_view> other_parts) {
  text.section = "text_config";
  text.section_type = std::exchange(text.model_type, model_type);
  text.prefix = prefix;
  text.other_parts.insert(text.other_parts.end(), other_parts.begin(), other_parts.end());
  return text;
}

namespace {

using enum Line;

// ---- gpt-oss ----
// (transformers 5.23, models/gpt_oss, integrations/mxfp4.py)

constexpr TableLine kGptOssLayer[] = {
    {kVector, "input_layernorm.weight", "hidden", Role::kInputNorm},
    {kLinear, "self_attn.q_proj", "heads*width, hidden", Role::kQ, "attn.in<input_layernorm", true},
    {kLinear, "self_attn.k_proj", "kv_heads*width, hidden", Role::kK, "attn.in", true},
    {kLinear, "self_attn.v_proj", "kv_heads*width, hidden", Role::kV, "attn.in", true},
    {kLinear, "self_attn.o_proj", "hidden, heads*width", Role::kO, "attn.out", true},
    {kVector, "self_attn.sinks", "heads", Role::kSinks},
    {kVector, "post_attention_layernorm.weight", "hidden", Role::kFfnNorm},
    {kRouter, "mlp.router", "experts, hidden", Role::kRouter, "ffn.in<post_attention_layernorm", true},
    // Rows of gate and up alternate.
    {kStack, "mlp.experts.gate_up_proj", "experts*2*inner, hidden", Role::kGateUp,
     "experts.in<post_attention_layernorm"},
    {kVector, "mlp.experts.gate_up_proj_bias", "experts, 2*inner"},
    {kStack, "mlp.experts.down_proj", "experts*hidden, inner", Role::kDown, "experts.mid"},
    {kVector, "mlp.experts.down_proj_bias", "experts, hidden"},
};

WeightsOnlyRow gpt_oss() {
  return {.model_type = "gpt_oss",
          .lacks = "sinks in attention, and experts of gate and up in turn with biases",
          .sizes =
              [](const ConfigReader& config) {
                config.only("attention_bias", true);
                Sizes sizes = read_sizes(config, {{"heads", "num_attention_heads"},
                                                  {"kv_heads", "num_key_value_heads"},
                                                  {"inner", "intermediate_size"},
                                                  {"top", "num_experts_per_tok"}});
                sizes["width"] = integer_or(config, "head_dim", 64);
                sizes["experts"] = config.integer_of({"num_local_experts", "num_experts"});
                return sizes;
              },
          .layer = [](const ConfigReader&, uint64_t, Sizes&) -> Blocks { return {kGptOssLayer}; }};
}

// ---- Gemma ----
// (transformers 5.23, models/gemma3, models/gemma4)

constexpr TableLine kGemmaNorms[] = {
    {kVector, "input_layernorm.weight", "hidden", Role::kInputNorm},
    {kVector, "post_attention_layernorm.weight", "hidden"},
    {kVector, "pre_feedforward_layernorm.weight", "hidden", Role::kFfnNorm},
    {kVector, "post_feedforward_layernorm.weight", "hidden"},
    {kVector, "self_attn.q_norm.weight", "width", Role::kQNorm},
    {kLinear, "self_attn.q_proj", "heads*width, hidden", Role::kQ, "attn.in<input_layernorm"},
    {kLinear, "self_attn.o_proj", "hidden, heads*width", Role::kO, "attn.out"},
};
constexpr TableLine kGemmaKeys[] = {
    {kVector, "self_attn.k_norm.weight", "width", Role::kKNorm},
    {kLinear, "self_attn.k_proj", "kv_heads*width, hidden", Role::kK, "attn.in"},
};
constexpr TableLine kGemmaValues[] = {
    {kLinear, "self_attn.v_proj", "kv_heads*width, hidden", Role::kV, "attn.in"},
};
constexpr TableLine kGemmaMlp[] = {
    {kLinear, "mlp.gate_proj", "inner, hidden", Role::kGate, "ffn.in<pre_feedforward_layernorm"},
    {kLinear, "mlp.up_proj", "inner, hidden", Role::kUp, "ffn.in"},
    {kLinear, "mlp.down_proj", "hidden, inner", Role::kDown, "ffn.mid"},
};

Sizes gemma3_sizes(const ConfigReader& config) {
  config.only("attention_bias", false);
  Sizes sizes = {{"hidden", config.integer("hidden_size")}, {"inner", config.integer("intermediate_size")}};
  sizes["vocab"] = integer_or(config, "vocab_size", 262208);
  sizes["heads"] = integer_or(config, "num_attention_heads", 8);
  sizes["kv_heads"] = integer_or(config, "num_key_value_heads", 4);
  sizes["width"] = integer_or(config, "head_dim", 256);
  return sizes;
}

WeightsOnlyRow gemma3_text() {
  return {.model_type = "gemma3_text",
          .lacks = "norms around each half of a layer, and two sets of positions",
          .tied = true,
          .plus_one = true,
          .sizes = gemma3_sizes,
          .layer = [](const ConfigReader&, uint64_t, Sizes&) -> Blocks {
            return {kGemmaNorms, kGemmaKeys, kGemmaValues, kGemmaMlp};
          }};
}

WeightsOnlyRow gemma3() {
  WeightsOnlyRow row =
      within(gemma3_text(), "gemma3", "language_model.model.", {"vision_tower.", "multi_modal_projector."});
  row.head = "language_model.lm_head";
  return row;
}

// Of layers whose keys and values are others'.
constexpr TableLine kGemmaShared[] = {
    {kUnused, "self_attn.k_norm.weight"},
    {kUnused, "self_attn.k_proj.weight"},
    {kUnused, "self_attn.v_proj.weight"},
};
constexpr TableLine kGemma4Scalar[] = {{kVector, "layer_scalar", "1"}};
constexpr TableLine kGemma4PerLayer[] = {
    {kLinear, "per_layer_input_gate", "ple, hidden", Role::kMixerOther, "ple.in"},
    {kLinear, "per_layer_projection", "hidden, ple", Role::kMixerOther, "ple.mid"},
    {kVector, "post_per_layer_input_norm.weight", "hidden"},
};
constexpr TableLine kGemma4Experts[] = {
    {kVector, "post_feedforward_layernorm_1.weight", "hidden"},
    {kVector, "pre_feedforward_layernorm_2.weight", "hidden"},
    {kVector, "post_feedforward_layernorm_2.weight", "hidden"},
    {kLinear, "mlp.gate_proj", "inner, hidden", Role::kGate, "ffn.in<pre_feedforward_layernorm", false, true},
    {kLinear, "mlp.up_proj", "inner, hidden", Role::kUp, "ffn.in", false, true},
    {kLinear, "mlp.down_proj", "hidden, inner", Role::kDown, "ffn.mid", false, true},
    {kRouter, "router.proj", "experts, hidden", Role::kRouter, "router.in"},
    {kVector, "router.scale", "hidden"},
    {kVector, "router.per_expert_scale", "experts"},
    {kStackedGateUp, "experts.gate_up_proj"},
    {kStackedDown, "experts.down_proj"},
    {kExpert, "experts.#.gate_proj", "expert_inner, hidden", Role::kGate,
     "experts.in<pre_feedforward_layernorm_2"},
    {kExpert, "experts.#.up_proj", "expert_inner, hidden", Role::kUp, "experts.in"},
    {kExpert, "experts.#.down_proj", "hidden, expert_inner", Role::kDown, "experts.mid"},
};

bool has_experts(const ConfigReader& config) { return config.maybe_flag("enable_moe_block").value_or(false); }
// Of embeddings that each layer has; 0: there are none.
uint64_t per_layer_width(const ConfigReader& config) {
  return config.maybe_integer("hidden_size_per_layer_input", 0, kMaxDimension).value_or(256);
}

Sizes gemma4_sizes(const ConfigReader& config) {
  config.only("attention_bias", false);
  Sizes sizes = read_sizes(config, {{"inner", "intermediate_size"},
                                    {"heads", "num_attention_heads"},
                                    {"kv_heads", "num_key_value_heads"},
                                    {"layers", "num_hidden_layers"}});
  sizes["width"] = integer_or(config, "head_dim", 256);
  sizes["ple"] = per_layer_width(config);
  sizes["ple_vocab"] = integer_or(config, "vocab_size_per_layer_input", 262144);
  if (!has_experts(config)) return sizes;
  sizes["experts"] = config.integer("num_experts");
  sizes["top"] = config.integer("top_k_experts");
  sizes["expert_inner"] = config.integer("moe_intermediate_size");
  return sizes;
}

// The last one is, whatever the list says.
bool is_full_layer(const ConfigReader& config, uint64_t layer, uint64_t layers) {
  if (layer + 1 == layers) return true;
  const Json* const types = config.maybe_array("layer_types", layers);
  return types == nullptr ? (layer + 1) % 6 == 0 : (*types)[layer] == "full_attention";
}

// What a layer's own section says instead.
void override_sizes(const ConfigReader& each, uint64_t layer, Sizes& sizes) {
  const std::optional<ConfigReader> own = each.maybe_section(std::to_string(layer));
  if (!own) return;
  sizes["width"] = integer_or(*own, "head_dim", sizes.at("width"));
  sizes["kv_heads"] = integer_or(*own, "num_key_value_heads", sizes.at("kv_heads"));
}

// Of a layer of full attention.
void set_global_sizes(const ConfigReader& config, bool key_is_value, Sizes& sizes) {
  sizes["width"] = integer_or(config, "global_head_dim", 512);
  if (key_is_value)
    sizes["kv_heads"] = integer_or(config, "num_global_key_value_heads", sizes.at("kv_heads"));
}

Blocks gemma4_layer(const ConfigReader& config, uint64_t layer, Sizes& sizes) {
  const uint64_t layers = sizes.at("layers");
  const uint64_t reusing = config.maybe_integer("num_kv_shared_layers", 0, layers).value_or(0);
  const bool full = is_full_layer(config, layer, layers), reuses = layer >= layers - reusing;
  const bool key_is_value = full && config.maybe_flag("attention_k_eq_v").value_or(false);
  if (const auto each = config.maybe_section("per_layer_config"))
    override_sizes(*each, layer, sizes);
  else if (full)
    set_global_sizes(config, key_is_value, sizes);
  if (reuses && config.maybe_flag("use_double_wide_mlp").value_or(false)) sizes["inner"] *= 2;
  Blocks blocks = {kGemmaNorms, kGemma4Scalar};
  if (reuses)
    blocks.emplace_back(kGemmaShared);
  else
    blocks.emplace_back(kGemmaKeys);
  if (!reuses && !key_is_value) blocks.emplace_back(kGemmaValues);
  if (per_layer_width(config) > 0) blocks.emplace_back(kGemma4PerLayer);
  if (has_experts(config))
    blocks.emplace_back(kGemma4Experts);
  else
    blocks.emplace_back(kGemmaMlp);
  return blocks;
}

constexpr TableLine kGemma4Globals[] = {
    {kTable, "embed_tokens_per_layer.weight", "ple_vocab, layers*ple"},
    // Of no layer, and kept by the releases: no recipe quantizes it.
    {kRouter, "per_layer_model_projection", "layers*ple, hidden", Role::kMixerOther},
    {kVector, "per_layer_projection_norm.weight", "ple"},
};

WeightsOnlyRow gemma4_text() {
  return {.model_type = "gemma4_text",
          .lacks = "norms around each half of a layer, embeddings of each layer, shared keys and its router",
          .tied = true,
          .sizes = gemma4_sizes,
          .layer = gemma4_layer,
          .globals = [](const ConfigReader& config) -> std::span<const TableLine> {
            if (per_layer_width(config) == 0) return {};
            return kGemma4Globals;
          }};
}

WeightsOnlyRow gemma4(std::string_view model_type) {
  return within(gemma4_text(), model_type, "model.language_model.",
                {"model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio.",
                 "model.vision_embedder.", "model.multi_modal_projector."});
}

// ---- Nemotron-3 ----
// (transformers 5.23, models/nemotron_h, conversion_mapping.py)

constexpr TableLine kNemotronNorm[] = {{kVector, "norm.weight", "hidden", Role::kInputNorm}};
constexpr TableLine kNemotronMamba[] = {
    {kLinear, "mixer.in_proj", "2*mamba+2*groups*state+mamba_heads, hidden", Role::kMixerIn, "mixer.in<norm"},
    {kFilter, "mixer.conv1d.weight", "mamba+2*groups*state, 1, taps", Role::kFilter},
    {kVector, "mixer.A_log", "mamba_heads", Role::kDecayLog},
    {kVector, "mixer.D", "mamba_heads"},
    {kVector, "mixer.dt_bias", "mamba_heads", Role::kStepBias},
    {kVector, "mixer.norm.weight", "mamba", Role::kOutNorm},
    {kLinear, "mixer.out_proj", "hidden, mamba", Role::kMixerOut, "mixer.out"},
};
constexpr TableLine kNemotronFilterBias[] = {{kVector, "mixer.conv1d.bias", "mamba+2*groups*state"}};
constexpr TableLine kNemotronAttention[] = {
    {kLinear, "mixer.q_proj", "heads*width, hidden", Role::kQ, "attn.in<norm"},
    {kLinear, "mixer.k_proj", "kv_heads*width, hidden", Role::kK, "attn.in"},
    {kLinear, "mixer.v_proj", "kv_heads*width, hidden", Role::kV, "attn.in"},
    {kLinear, "mixer.o_proj", "hidden, heads*width", Role::kO, "attn.out"},
};
constexpr TableLine kNemotronMlp[] = {
    {kLinear, "mixer.up_proj", "inner, hidden", Role::kUp, "ffn.in<norm"},
    {kLinear, "mixer.down_proj", "hidden, inner", Role::kDown, "ffn.mid"},
};
constexpr TableLine kNemotronMoe[] = {
    {kRouter, "mixer.gate", "experts, hidden", Role::kRouter, "ffn.in<norm"},
    {kVector, "mixer.gate.e_score_correction_bias", "experts", Role::kRouterBias},
    {kLinear, "mixer.shared_experts.up_proj", "shared_inner, hidden", Role::kUp, "shared.in<norm", false,
     true},
    {kLinear, "mixer.shared_experts.down_proj", "hidden, shared_inner", Role::kDown, "shared.mid", false,
     true},
};
constexpr TableLine kNemotronExperts[] = {
    {kExpert, "mixer.experts.#.up_proj", "expert_inner, hidden", Role::kUp, "experts.in<norm"},
    {kExpert, "mixer.experts.#.down_proj", "hidden, expert_inner", Role::kDown, "experts.mid"},
};
// Experts of a narrower input. What enters fc1 enters the shared expert too; they share no scale.
constexpr TableLine kNemotronLatent[] = {
    {kLinear, "mixer.fc1_latent_proj", "latent, hidden", Role::kMixerOther, "latent.in<norm"},
    {kLinear, "mixer.fc2_latent_proj", "hidden, latent", Role::kMixerOther, "latent.out"},
    {kExpert, "mixer.experts.#.up_proj", "expert_inner, latent", Role::kUp, "experts.in"},
    {kExpert, "mixer.experts.#.down_proj", "latent, expert_inner", Role::kDown, "experts.mid"},
};

enum class NemotronBlock : uint8_t { kMamba, kAttention, kMoe, kMlp };

constexpr struct {
  char letter;
  std::string_view words[2];
  NemotronBlock block;
} kNemotronBlocks[] = {
    {'M', {"mamba", "linear_attention"}, NemotronBlock::kMamba},
    {'*', {"attention", "full_attention"}, NemotronBlock::kAttention},
    {'E', {"moe", "moe"}, NemotronBlock::kMoe},
    {'-', {"mlp", "mlp"}, NemotronBlock::kMlp},
};

// One for each layer, by either of the keys that say it.
std::vector<NemotronBlock> nemotron_blocks(const ConfigReader& config) {
  const char *pattern_key = "hybrid_override_pattern", *list_key = "layers_block_type";
  std::vector<NemotronBlock> blocks;
  const auto add = [&](const char* key, const auto& is_it, const std::string& found) {
    for (const auto& each : kNemotronBlocks) {
      if (!is_it(each)) continue;
      blocks.push_back(each.block);
      return;
    }
    config.refuse_unsupported(key, "mamba (M), attention (*), moe (E) or mlp (-)", found);
  };
  if (const Json* const list = config.maybe_array(list_key, 1)) {
    if (list->size() > kMaxLayers) config.refuse_value(list_key, "at most 4096 layers", value_text(*list));
    for (const Json& type : *list)
      add(
          list_key, [&](const auto& each) { return type == each.words[0] || type == each.words[1]; },
          value_text(type));
    return blocks;
  }
  const std::optional<std::string> pattern = config.maybe_string(pattern_key);
  if (!pattern || pattern->empty()) config.refuse_missing(list_key);
  if (pattern->size() > kMaxLayers) config.refuse_value(pattern_key, "at most 4096 layers", "more");
  for (const char letter : *pattern)
    add(
        pattern_key, [&](const auto& each) { return letter == each.letter; }, std::string(1, letter));
  return blocks;
}

Sizes nemotron_sizes(const ConfigReader& config) {
  for (const char* key : {"mlp_bias", "use_bias", "attention_bias", "mamba_proj_bias"})
    config.only(key, false);
  const std::vector<NemotronBlock> blocks = nemotron_blocks(config);
  const auto has = [&](NemotronBlock block) { return std::ranges::find(blocks, block) != blocks.end(); };
  Sizes sizes = read_sizes(config, {});
  sizes["layers"] = blocks.size();
  const auto read = [&](std::initializer_list<SizeKey> keys) { add_sizes(config, keys, sizes); };
  if (has(NemotronBlock::kAttention))
    read({{"heads", "num_attention_heads"}, {"kv_heads", "num_key_value_heads"}, {"width", "head_dim"}});
  if (has(NemotronBlock::kMlp)) read({{"inner", "intermediate_size"}});
  if (has(NemotronBlock::kMamba)) {
    read({{"mamba_heads", "mamba_num_heads"},
          {"state", "ssm_state_size"},
          {"groups", "n_groups"},
          {"taps", "conv_kernel"}});
    sizes["mamba"] = sizes["mamba_heads"] * config.integer("mamba_head_dim");
  }
  if (has(NemotronBlock::kMoe)) {
    read({{"experts", "n_routed_experts"},
          {"top", "num_experts_per_tok"},
          {"expert_inner", "moe_intermediate_size"},
          {"shared_inner", "moe_shared_expert_intermediate_size"}});
    sizes["latent"] = config.maybe_integer("moe_latent_size", 1, kMaxDimension).value_or(0);
  }
  return sizes;
}

Blocks nemotron_layer(const ConfigReader& config, uint64_t layer, Sizes& sizes) {
  switch (nemotron_blocks(config)[layer]) {
    case NemotronBlock::kMamba:
      if (config.maybe_flag("use_conv_bias").value_or(true))
        return {kNemotronNorm, kNemotronMamba, kNemotronFilterBias};
      return {kNemotronNorm, kNemotronMamba};
    case NemotronBlock::kAttention:
      return {kNemotronNorm, kNemotronAttention};
    case NemotronBlock::kMlp:
      return {kNemotronNorm, kNemotronMlp};
    case NemotronBlock::kMoe:
      if (sizes.at("latent") > 0) return {kNemotronNorm, kNemotronMoe, kNemotronLatent};
      return {kNemotronNorm, kNemotronMoe, kNemotronExperts};
  }
  return {};
}

WeightsOnlyRow nemotron_h() {
  return {.model_type = "nemotron_h",
          .lacks = "Mamba2, layers of one block and experts without a gate",
          .prefix = "backbone.",
          .embedding = "embeddings",
          .norm = "norm_f.weight",
          .other_parts = {"mtp."},
          .sizes = nemotron_sizes,
          .layer = nemotron_layer};
}

}  // namespace

const std::vector<WeightsOnlyRow>& weights_only_rows() {
  static const std::vector<WeightsOnlyRow> kRows = [] {
    std::vector<WeightsOnlyRow> rows = {gpt_oss(),     gemma3_text(),    gemma3(),
                                        gemma4_text(), gemma4("gemma4"), gemma4("gemma4_unified"),
                                        nemotron_h()};
    for (const std::vector<WeightsOnlyRow>& more :
         {linear_attention_rows(), minimax_m3_rows(), llama4_rows()})
      rows.insert(rows.end(), more.begin(), more.end());
    return rows;
  }();
  return kRows;
}

}  // namespace nibblecast
