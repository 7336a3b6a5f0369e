#include "model/families/decoder_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace nibblecast {
namespace {

constexpr uint64_t kFullAttentionInterval = 4, kMostTaps = 64;

std::string text(std::string_view key) { return std::string(key); }
std::string index_text(std::string_view key, uint64_t index) {
  return text(key) + "[" + std::to_string(index) + "]";
}

bool read_flag(const ConfigReader& config, const Option<bool>& option) {
  if (option.key.empty()) return option.otherwise;
  return config.maybe_flag(text(option.key)).value_or(option.otherwise);
}

double read_positive(const ConfigReader& config, const Option<double>& option) {
  if (option.key.empty()) return option.otherwise;
  return config.maybe_positive(text(option.key)).value_or(option.otherwise);
}

void check_options(const ConfigReader& config, const DecoderRow& row) {
  config.only("hidden_act", "silu");
  config.only("attn_logit_softcapping", nullptr);
  config.only("final_logit_softcapping", nullptr);
  for (const auto& [key, value] : row.fixed) config.only(text(key), value);
}

// ---- attention ----

uint64_t read_head_width(const ConfigReader& config, const DecoderRow& row, uint64_t hidden, uint64_t heads) {
  if (const auto width = config.maybe_integer("head_dim", 1, kMaxDimension)) return *width;
  if (row.head_dim != 0) return row.head_dim;
  config.require_multiple("hidden_size", hidden, heads, "num_attention_heads = ");
  return hidden / heads;
}

uint64_t read_kv_heads(const ConfigReader& config, const DecoderRow& row, uint64_t heads) {
  const char* key = "num_key_value_heads";
  const auto stated = config.maybe_integer(key, 1, kMaxDimension);
  if (!stated && !row.kv_heads_optional) config.refuse_missing(key);
  const uint64_t kv_heads = stated.value_or(heads);
  config.require_multiple("num_attention_heads", heads, kv_heads, "num_key_value_heads = ");
  return kv_heads;
}

// Keys that a query of a layer with a window sees; 0: there are no such layers.
uint64_t read_window(const ConfigReader& config, const DecoderRow& row) {
  const char* key = "sliding_window";
  if (row.windows == Windows::kNone) return 0;
  const bool if_used = row.windows == Windows::kAllIfUsed || row.windows == Windows::kLateIfUsed;
  if (if_used && !config.maybe_flag("use_sliding_window").value_or(false)) return 0;
  if (config.is_null(key)) return 0;  // which is not what an absent one means
  return config.maybe_integer(key, 1, kMaxPositions).value_or(row.window);
}

bool has_window(const ConfigReader& config, const std::string& key, const Json& type) {
  if (type == "sliding_attention") return true;
  if (type != "full_attention")
    config.refuse_unsupported(key, "full_attention or sliding_attention", value_text(type));
  return false;
}

// Of each layer. layer_types may choose in one kind of family; in others it may only agree.
std::vector<uint64_t> read_windows(const ConfigReader& config, const DecoderRow& row, uint64_t layers) {
  const uint64_t window = read_window(config, row);
  const bool chosen = row.windows == Windows::kLateIfUsed;
  const uint64_t first =
      chosen ? config.maybe_integer("max_window_layers", 0, kMaxPositions).value_or(28) : 0;
  const Json* types = config.maybe_array("layer_types", layers);
  std::vector<uint64_t> windows;
  for (uint64_t layer = 0; layer < layers; ++layer) {
    windows.push_back(layer >= first ? window : 0);
    if (types == nullptr) continue;
    const std::string key = index_text("layer_types", layer);
    const bool wanted = has_window(config, key, (*types)[layer]);
    if (wanted == (windows.back() != 0)) continue;
    if (!chosen || (wanted && window == 0))
      config.refuse_contradiction(
          key, value_text((*types)[layer]), "sliding_window",
          window == 0 ? "no window" : std::to_string(window) + " keys in every layer");
    windows.back() = wanted ? window : 0;
  }
  return windows;
}

// Which layers are gated delta nets.
std::vector<bool> read_linear_layers(const ConfigReader& config, uint64_t layers) {
  const uint64_t interval =
      config.maybe_integer("full_attention_interval", 1, kMaxLayers).value_or(kFullAttentionInterval);
  const Json* types = config.maybe_array("layer_types", layers);
  std::vector<bool> linear;
  for (uint64_t layer = 0; layer < layers; ++layer) {
    linear.push_back((layer + 1) % interval != 0);
    if (types == nullptr) continue;
    const Json& type = (*types)[layer];
    linear.back() = type == "linear_attention";
    if (!linear.back() && type != "full_attention")
      config.refuse_unsupported(index_text("layer_types", layer), "full_attention or linear_attention",
                                value_text(type));
  }
  return linear;
}

DeltaNetSpec read_delta_net(const ConfigReader& config, DeltaNetInput input) {
  const auto number = [&](const char* key, uint64_t otherwise) {
    return config.maybe_integer(key, 1, kMaxDimension).value_or(otherwise);
  };
  DeltaNetSpec net{
      .shape = {.key_heads = number("linear_num_key_heads", 16),
                .value_heads = number("linear_num_value_heads", 32),
                .key_width = number("linear_key_head_dim", 128),
                .value_width = number("linear_value_head_dim", 128),
                .taps = config.maybe_integer("linear_conv_kernel_dim", 1, kMostTaps).value_or(4)},
      .input = input};
  config.require_multiple("linear_num_value_heads", net.shape.value_heads, net.shape.key_heads,
                          "linear_num_key_heads = ");
  for (const auto& [heads, width] : {std::pair(net.shape.key_heads, net.shape.key_width),
                                     std::pair(net.shape.value_heads, net.shape.value_width)})
    config.require_most("a linear attention's heads * head_dim", heads * width, "", kMaxWidth);
  return net;
}

GqaSpec read_attention(const ConfigReader& config, const DecoderRow& row, uint64_t hidden) {
  GqaSpec gqa{.heads = config.integer("num_attention_heads")};
  gqa.kv_heads = read_kv_heads(config, row, gqa.heads);
  gqa.width = read_head_width(config, row, hidden, gqa.heads);
  config.require_most("num_attention_heads * head_dim", gqa.heads * gqa.width, "", kMaxWidth);
  gqa.rope = read_rope(config, gqa.width, row.rope);
  gqa.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(gqa.width)));
  if (read_flag(config, row.has_head_norms)) gqa.head_norms = row.head_norms;
  gqa.qkv_bias = read_flag(config, row.qkv_bias);
  gqa.o_bias = read_flag(config, row.o_bias);
  gqa.output_gate = row.output_gate;
  return gqa;
}

// Grouped-query attention, and delta nets in its place.
std::vector<MixerSpec> read_attention_layers(const ConfigReader& config, const DecoderRow& row,
                                             uint64_t hidden, uint64_t layers) {
  const GqaSpec attention = read_attention(config, row, hidden);
  std::vector<MixerSpec> mixers(layers, attention);
  if (row.delta_net) {
    const DeltaNetSpec net = read_delta_net(config, *row.delta_net);
    const std::vector<bool> linear = read_linear_layers(config, layers);
    for (uint64_t layer = 0; layer < layers; ++layer)
      if (linear[layer]) mixers[layer] = net;
    return mixers;
  }
  const std::vector<uint64_t> windows = read_windows(config, row, layers);
  for (uint64_t layer = 0; layer < layers; ++layer) std::get<GqaSpec>(mixers[layer]).window = windows[layer];
  return mixers;
}

// ---- latent attention ----

// g(mscale_all_dim) of yarn, by which queries and keys both grow. (transformers 5.23, yarn_apply_mscale of
// models/deepseek_v3)
double score_growth(const RopeSpec& rope) {
  const auto* const yarn = std::get_if<YarnRope>(&rope.scaling);
  if (yarn == nullptr || yarn->mscale_all_dim == 0) return 1;
  const double growth = yarn_growth(yarn->yarn.factor, yarn->mscale_all_dim);
  return growth * growth;
}

MlaSpec read_latent_attention(const ConfigReader& config, const DecoderRow& row) {
  MlaSpec mla{.heads = {.heads = config.integer("num_attention_heads"),
                        .key = config.integer("qk_nope_head_dim"),
                        .shared = config.integer("qk_rope_head_dim"),
                        .value = config.integer("v_head_dim")},
              .q_rank = config.is_null("q_lora_rank") ? 0 : config.integer("q_lora_rank"),
              .kv_rank = config.integer("kv_lora_rank")};
  const LatentHeads& heads = mla.heads;
  const auto kv_heads = config.maybe_integer("num_key_value_heads", 1, kMaxDimension);
  if (kv_heads && *kv_heads != heads.heads)
    config.refuse_contradiction("num_key_value_heads", std::to_string(*kv_heads), "num_attention_heads",
                                std::to_string(heads.heads));
  const std::string count = "num_attention_heads * ";
  config.require_most(count + "(qk_nope_head_dim + qk_rope_head_dim)", heads.heads * heads.key_width(), "",
                      kMaxWidth);
  config.require_most(count + "(qk_nope_head_dim + v_head_dim)", heads.heads * heads.expanded_width(), "",
                      kMaxWidth);
  RopeDefaults rope = row.rope;
  rope.ignores_share = true;
  rope.width_key = "qk_rope_head_dim";
  mla.rope = read_rope(config, heads.shared, rope);
  mla.rope.place = RopePlace::kLast;
  if (read_flag(config, row.mla->interleaved)) mla.rope.pairing = RopePairing::kInterleaved;
  mla.scale = static_cast<float>(score_growth(mla.rope) / std::sqrt(static_cast<double>(heads.key_width())));
  return mla;
}

bool is_full(const ConfigReader& config, const std::string& key, const Json& type, const char* full,
             const char* shared) {
  if (type == full) return true;
  if (type != shared) config.refuse_value(key, std::string(full) + " or " + shared, value_text(type));
  return false;
}

// Which layers have an indexer of their own; the others see the keys that the one before chose.
std::vector<bool> read_indexers(const ConfigReader& config, uint64_t layers) {
  std::vector<bool> full;
  const Json* const types = config.maybe_array("indexer_types", layers);
  for (uint64_t layer = 0; types != nullptr && layer < layers; ++layer)
    full.push_back(is_full(config, index_text("indexer_types", layer), (*types)[layer], "full", "shared"));
  if (types != nullptr) return full;
  if (const auto pattern = config.maybe_string("index_topk_pattern")) {
    if (pattern->size() < layers)
      config.refuse_value("index_topk_pattern", std::to_string(layers) + " letters", *pattern);
    for (uint64_t layer = 0; layer < layers; ++layer)
      full.push_back(is_full(config, index_text("index_topk_pattern", layer),
                             std::string(1, (*pattern)[layer]), "F", "S"));
    return full;
  }
  const uint64_t step = std::max<uint64_t>(config.maybe_integer("index_topk_freq", 0, kMaxLayers).value_or(1),
                                           1),
                 offset = config.maybe_integer("index_skip_topk_offset", 0, kMaxLayers).value_or(2);
  for (uint64_t layer = 0; layer < layers; ++layer)
    full.push_back(layer + 1 < offset || (layer + 1 - offset) % step == 0);
  return full;
}

// Of each layer.
std::vector<MixerSpec> read_latent_layers(const ConfigReader& config, const DecoderRow& row,
                                          uint64_t layers) {
  MlaSpec mla = read_latent_attention(config, row);
  if (!row.mla->indexed) return std::vector<MixerSpec>(layers, mla);
  if (mla.q_rank == 0) config.refuse_unsupported("q_lora_rank", "a number, which the indexer needs", "null");
  mla.most_keys = config.integer("index_topk");
  const IndexerSpec indexer{.heads = config.integer("index_n_heads"),
                            .width = config.integer("index_head_dim")};
  config.require_most("index_n_heads * index_head_dim", indexer.heads * indexer.width, "", kMaxWidth);
  const std::vector<bool> full =
      row.mla->shared_indexers ? read_indexers(config, layers) : std::vector<bool>(layers, true);
  if (!full.front())
    config.refuse_value("indexer_types", "a first layer with an indexer of its own", "shared");
  std::vector<MixerSpec> mixers;
  for (const bool own : full) {
    mla.indexer = own ? std::optional(indexer) : std::nullopt;
    mixers.emplace_back(mla);
  }
  return mixers;
}

// ---- the feed-forward half ----

void read_groups(const ConfigReader& config, const MoeRow& row, RouterSpec& router) {
  router.groups = config.maybe_integer("n_group", 1, kMaxDimension).value_or(row.n_group);
  router.top_groups = config.maybe_integer("topk_group", 1, kMaxDimension).value_or(row.topk_group);
  config.require_most("topk_group", router.top_groups, "n_group = ", router.groups);
  if (router.groups == 1) return;
  config.require_multiple("n_routed_experts", router.experts, 2 * router.groups, "2 * n_group = ");
}

RouterSpec read_router(const ConfigReader& config, const MoeRow& row) {
  RouterSpec router{.experts = config.integer_of({text(row.experts), text(row.experts_alias)}),
                    .top = config.integer("num_experts_per_tok"),
                    .score = row.score};
  if (row.groups) read_groups(config, row, router);
  config.require_most("num_experts_per_tok", router.top,
                      "the experts to choose from = ", router.experts / router.groups * router.top_groups);
  router.renormalize = read_flag(config, row.renormalize);
  router.eps = row.eps;
  router.scale = static_cast<float>(read_positive(config, row.scale));
  return router;
}

// `width`: of a routed expert.
uint64_t read_shared_width(const ConfigReader& config, const MoeRow& moe, uint64_t width) {
  if (!moe.shared_width.empty()) return config.integer(text(moe.shared_width));
  const uint64_t shared = config.maybe_integer(text(moe.shared), 1, kMaxDimension).value_or(1);
  config.require_most(text(moe.shared) + " * " + text(moe.width), shared * width, "", kMaxWidth);
  return shared * width;
}

MoeSpec read_moe(const ConfigReader& config, const DecoderRow& row) {
  const MoeRow& moe = *row.moe;
  const uint64_t width = config.integer_of({text(moe.width), text(moe.width_alias)});
  MoeSpec spec{.router = read_router(config, moe),
               .choice_bias = !moe.names.router_bias.empty(),
               .expert = {.width = width}};
  if (moe.shared.empty() && moe.shared_width.empty()) return spec;
  spec.shared =
      MlpSpec{.width = read_shared_width(config, moe, width), .bias = read_flag(config, row.mlp_bias)};
  spec.shared_gate = !moe.names.shared_gate.empty();
  return spec;
}

std::vector<bool> read_layer_types(const ConfigReader& config, const Json& types, uint64_t layers) {
  std::vector<bool> sparse;
  for (uint64_t layer = 0; layer < layers; ++layer) {
    sparse.push_back(types[layer] == "sparse");
    if (!sparse.back() && types[layer] != "dense") {
      config.refuse_value(index_text("mlp_layer_types", layer), "sparse or dense", value_text(types[layer]));
    }
  }
  return sparse;
}

void apply_steps(const ConfigReader& config, std::vector<bool>& sparse) {
  const uint64_t step = config.maybe_integer("decoder_sparse_step", 1, kMaxLayers).value_or(1);
  for (uint64_t layer = 0; layer < sparse.size(); ++layer)
    if ((layer + 1) % step != 0) sparse[layer] = false;
  const Json* dense = config.maybe_array("mlp_only_layers", 0);
  if (dense == nullptr) return;
  for (const Json& entry : *dense) {
    const auto layer = whole_number(entry);
    if (!layer || *layer >= sparse.size())
      config.refuse_value("mlp_only_layers", "numbers of layers", value_text(*dense));
    sparse[*layer] = false;
  }
}

// Which layers have experts.
std::vector<bool> read_sparse_layers(const ConfigReader& config, const MoeRow& row, uint64_t layers) {
  const Json* types = row.layer_types ? config.maybe_array("mlp_layer_types", layers) : nullptr;
  if (types != nullptr) return read_layer_types(config, *types, layers);
  uint64_t first = row.first.otherwise;
  if (!row.first.key.empty())
    first = config.maybe_integer(text(row.first.key), 0, kMaxLayers).value_or(first);
  std::vector<bool> sparse(layers, true);
  std::fill_n(sparse.begin(), std::min(first, layers), false);
  if (row.steps) apply_steps(config, sparse);
  return sparse;
}

// Tokens whose queries are not scaled by their position; 0: none are, however long a row is.
uint64_t unscaled_positions(const ConfigReader& config) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const std::optional<ConfigReader> rope = config.maybe_section(key);
    if (!rope || !rope->maybe_positive("llama_4_scaling_beta")) continue;
    return rope->integer("original_max_position_embeddings", 1, kMaxPositions);
  }
  return 0;
}

}  // namespace

DecoderSpec read_decoder(const ConfigReader& config, const DecoderRow& row) {
  check_options(config, row);
  DecoderSpec spec{.hidden = config.integer("hidden_size"), .vocab = config.integer("vocab_size")};
  spec.norm.eps = static_cast<float>(config.maybe_positive("rms_norm_eps").value_or(row.eps));
  const uint64_t layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  spec.norm.use = row.norm;
  spec.longest_row = unscaled_positions(config);
  const std::vector<MixerSpec> mixers = row.mla ? read_latent_layers(config, row, layers)
                                                : read_attention_layers(config, row, spec.hidden, layers);
  const std::vector<bool> sparse =
      row.moe ? read_sparse_layers(config, *row.moe, layers) : std::vector<bool>(layers, false);

  std::optional<MoeSpec> moe;
  if (std::ranges::count(sparse, true) > 0) moe = read_moe(config, row);
  if (moe) config.require_most("num_hidden_layers * experts", layers * moe->router.experts, "", kMaxExperts);
  MlpSpec mlp{.bias = read_flag(config, row.mlp_bias)};
  if (std::ranges::count(sparse, false) > 0) mlp.width = config.integer("intermediate_size");

  for (uint64_t layer = 0; layer < layers; ++layer) {
    DecoderLayer& each = spec.layers.emplace_back(DecoderLayer{.mixer = mixers[layer]});
    if (sparse[layer])
      each.ffn = *moe;
    else
      each.ffn = mlp;
  }
  return spec;
}

}  // namespace nibblecast
