#include "model/families/deepseek_v4/config.h"

#include <cmath>
#include <optional>
#include <utility>

#include "model/config_reader.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMaxStreams = 64;

void check_architecture(const ConfigReader& root) {
  const auto model_type = root.maybe_string("model_type");
  if (!model_type) root.refuse_missing("model_type");
  root.only("model_type", "deepseek_v4");
  root.only("n_shared_experts", 1);
  root.only("num_key_value_heads", 1);
  root.only("scoring_func", "sqrtsoftplus");
  root.only("topk_method", "noaux_tc");
  root.only("norm_topk_prob", true);
  root.only("hidden_act", "silu");
  root.only("attention_bias", false);
  root.only("tie_word_embeddings", false);
}

// ---- layer kinds ----

uint32_t ratio_of_type(const ConfigReader& root, const std::string& key, const Json& type) {
  if (type == "sliding_attention") return 0;
  if (type == "compressed_sparse_attention") return 4;
  if (type == "heavily_compressed_attention") return 128;
  root.refuse_value(key, "sliding_attention, compressed_sparse_attention or heavily_compressed_attention",
                    value_text(type));
}

// The ratios of transformers' two kinds: a map, or two scalars in older versions. Ours are the official ones.
void check_compress_rates(const ConfigReader& root) {
  root.only("compress_rate_csa", 4);
  root.only("compress_rate_hca", 128);
  const auto rates = root.maybe_section("compress_rates");
  if (!rates) return;
  rates->only("compressed_sparse_attention", 4);
  rates->only("heavily_compressed_attention", 128);
}

std::vector<uint32_t> parse_compress_ratios(const ConfigReader& root, uint64_t layers) {
  check_compress_rates(root);
  // The release appends an entry for each draft (MTP) layer.
  const Json* ratios = root.maybe_array("compress_ratios", layers);
  const Json* types = root.maybe_array("layer_types", layers);
  if (ratios == nullptr && types == nullptr) root.refuse_missing("compress_ratios");
  std::vector<uint32_t> result;
  for (uint64_t layer = 0; layer < layers; ++layer) {
    const std::string index = "[" + std::to_string(layer) + "]";
    std::optional<uint32_t> ratio;
    if (ratios != nullptr) {
      const Json& value = (*ratios)[layer];
      if (value != 0 && value != 4 && value != 128) {
        root.refuse_value("compress_ratios" + index, "0, 4 or 128", value_text(value));
      }
      ratio = value.get<uint32_t>();
    }
    if (types != nullptr) {
      const uint32_t of_type = ratio_of_type(root, "layer_types" + index, (*types)[layer]);
      if (ratio && *ratio != of_type) {
        root.refuse_contradiction("compress_ratios" + index, std::to_string(*ratio), "layer_types" + index,
                                  std::to_string(of_type) + " by " + value_text((*types)[layer]));
      }
      ratio = of_type;
    }
    result.push_back(*ratio);
  }
  return result;
}

uint64_t parse_hash_layers(const ConfigReader& root, uint64_t layers) {
  const auto stated = root.maybe_integer("num_hash_layers", 0, kMaxLayers);
  const Json* types = root.maybe_array("mlp_layer_types", layers);
  if (types == nullptr) {
    if (!stated) root.refuse_missing("num_hash_layers");
    if (*stated > layers) {
      root.refuse_value("num_hash_layers", "at most num_hidden_layers = " + std::to_string(layers),
                        std::to_string(*stated));
    }
    return *stated;
  }
  uint64_t hash = 0;
  for (uint64_t layer = 0; layer < layers; ++layer) {
    const Json& type = (*types)[layer];
    const bool is_hash = type == "hash_moe";
    if ((!is_hash && type != "moe") || (is_hash && hash != layer)) {
      root.refuse_value("mlp_layer_types[" + std::to_string(layer) + "]",
                        is_hash ? "hash_moe in the first layers only" : "hash_moe or moe", value_text(type));
    }
    hash += is_hash;
  }
  if (stated && *stated != hash) {
    root.refuse_contradiction("num_hash_layers", std::to_string(*stated), "mlp_layer_types",
                              std::to_string(hash));
  }
  return hash;
}

// ---- rotary embedding ----

// `type` is spelled so in the release, `rope_type` in transformers.
bool is_yarn(const ConfigReader& rope) {
  std::string key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const auto type = rope.maybe_string(key);
  if (!type) rope.refuse_missing(key);
  if (*type != "yarn" && *type != "default") {
    rope.refuse(ErrorKind::kUnsupported, key, "has a value that is not supported", "yarn or default",
                value_text(*type));
  }
  return *type == "yarn";
}

void parse_yarn(const ConfigReader& rope, RopeConfig& config) {
  rope.only("attention_factor", 1.0);  // V4 never scales cos and sin
  config.yarn = true;
  config.factor = rope.positive("factor");
  config.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", 1, kMaxPositions);
  config.beta_fast = rope.maybe_positive("beta_fast").value_or(config.beta_fast);
  config.beta_slow = rope.maybe_positive("beta_slow").value_or(config.beta_slow);
  if (!(config.factor >= 1)) rope.refuse_value("factor", "at least 1", std::to_string(config.factor));
  if (!(config.beta_fast > config.beta_slow)) {
    rope.refuse_value("beta_fast", "more than beta_slow = " + std::to_string(config.beta_slow),
                      std::to_string(config.beta_fast));
  }
}

double theta_of(const ConfigReader& root, const std::string& key, const std::optional<ConfigReader>& section,
                const std::string& section_name) {
  const auto official = root.maybe_positive(key);
  const auto other = section ? section->maybe_positive("rope_theta") : std::nullopt;
  if (!official && !other) root.refuse_missing(key);
  if (official && other && *official != *other) {
    root.refuse_contradiction(key, std::to_string(*official), section_name + ".rope_theta",
                              std::to_string(*other));
  }
  return other ? *other : *official;
}

void parse_rope(const ConfigReader& root, DeepseekV4Config& config) {
  const auto parameters = root.maybe_section("rope_parameters");
  const auto main = parameters ? parameters->maybe_section("main") : std::nullopt;
  const auto compress = parameters ? parameters->maybe_section("compress") : std::nullopt;
  config.rope.theta = theta_of(root, "rope_theta", main, "rope_parameters.main");
  if (main && is_yarn(*main)) main->only("rope_type", "default");
  config.compress_rope.theta = theta_of(root, "compress_rope_theta", compress, "rope_parameters.compress");

  const auto scaling = root.maybe_section("rope_scaling");
  if (!scaling && !compress) root.refuse_missing("rope_scaling");
  RopeConfig official = config.compress_rope;
  if (scaling && is_yarn(*scaling)) parse_yarn(*scaling, official);
  if (compress && is_yarn(*compress)) parse_yarn(*compress, config.compress_rope);
  if (!compress) config.compress_rope = official;
  if (scaling && compress && !(official == config.compress_rope)) {
    root.refuse(ErrorKind::kBadInput, "rope_scaling", "contradicts 'rope_parameters.compress'",
                value_text(*parameters->find("compress")), value_text(*root.find("rope_scaling")));
  }
}

// qk_rope_head_dim, or the share of head_dim that transformers states instead.
uint64_t parse_rope_dim(const ConfigReader& root, uint64_t head_dim) {
  const auto stated = root.maybe_integer("qk_rope_head_dim", 2, head_dim);
  std::optional<uint64_t> derived;
  const auto use_factor = [&](const ConfigReader& section) {
    const auto factor = section.maybe_positive("partial_rotary_factor");
    if (!factor) return;
    const double dim = *factor * static_cast<double>(head_dim);
    if (!(*factor <= 1) || !(std::fabs(dim - std::round(dim)) < 1e-6) || std::round(dim) < 2) {
      section.refuse_value("partial_rotary_factor", "a share of head_dim = " + std::to_string(head_dim),
                           std::to_string(*factor));
    }
    derived = static_cast<uint64_t>(std::llround(dim));
    if (stated && *stated != *derived) {
      section.refuse_contradiction("partial_rotary_factor", std::to_string(*factor), "qk_rope_head_dim",
                                   std::to_string(*stated));
    }
  };
  use_factor(root);
  if (const auto parameters = root.maybe_section("rope_parameters")) {
    if (const auto main = parameters->maybe_section("main")) use_factor(*main);
  }
  if (!stated && !derived) root.refuse_missing("qk_rope_head_dim");
  const uint64_t dim = stated ? *stated : *derived;
  if (dim % 2 != 0) root.refuse_value("qk_rope_head_dim", "an even number", std::to_string(dim));
  return dim;
}

// ---- the rest ----

void parse_tile(const ConfigReader& root, DeepseekV4Config& config) {
  const auto quantization = root.maybe_section("quantization_config");
  if (!quantization) return;
  const Json* tile = quantization->maybe_array("weight_block_size", 2);
  if (tile == nullptr) return;
  for (const Json& side : *tile) {
    const uint64_t length = whole_number(side).value_or(0);
    if (tile->size() != 2 || length == 0 || length > kMaxDimension) {
      quantization->refuse_value("weight_block_size", "two integers above 0", value_text(*tile));
    }
  }
  config.tile_rows = (*tile)[0].get<uint64_t>();
  config.tile_cols = (*tile)[1].get<uint64_t>();
}

void check_widths(const ConfigReader& root, const DeepseekV4Config& c) {
  constexpr uint64_t kMxfp4Block = 32;  // OCP Microscaling Formats (MX) 1.0: elements per scale
  root.require_multiple("hidden_size", c.hidden_size, kMxfp4Block, "");
  root.require_multiple("moe_intermediate_size", c.moe_intermediate_size, kMxfp4Block, "");
  root.require_multiple("num_attention_heads", c.num_attention_heads, c.o_groups, "o_groups = ");
  root.require_most("num_experts_per_tok", c.num_experts_per_tok, "n_routed_experts = ", c.n_routed_experts);
  root.require_most("qk_rope_head_dim", c.qk_rope_head_dim, "index_head_dim = ", c.index_head_dim);
  const std::pair<const char*, uint64_t> products[] = {
      {"num_attention_heads * head_dim", c.num_attention_heads * c.head_dim},
      {"o_groups * o_lora_rank", c.o_groups * c.o_lora_rank},
      {"index_n_heads * index_head_dim", c.index_n_heads * c.index_head_dim},
      {"hc_mult * hidden_size", c.hc_mult * c.hidden_size}};
  for (const auto& [name, width] : products) root.require_most(name, width, "", kMaxWidth);
  root.require_most("num_hidden_layers * n_routed_experts", c.num_hidden_layers * c.n_routed_experts, "",
                    kMaxExperts);
}

// Of a release's rope_theta, rope_scaling and compress_rope_theta; other fields of the second stay.
Json hub_rope(const Json& config, const DeepseekV4Config& parsed, double share) {
  Json compress = {{"rope_type", "default"}};
  if (parsed.compress_rope.yarn) {
    compress = config.at("rope_scaling");
    compress.erase("type");
    compress["rope_type"] = "yarn";
    compress["attention_factor"] = 1.0;
  }
  compress["rope_theta"] = parsed.compress_rope.theta;
  compress["partial_rotary_factor"] = share;
  return {{"main",
           {{"rope_type", "default"}, {"rope_theta", parsed.rope.theta}, {"partial_rotary_factor", share}}},
          {"compress", std::move(compress)}};
}

}  // namespace

DeepseekV4Config DeepseekV4Config::parse(const Json& json, const std::string& file) {
  const ConfigReader root(json, file);
  check_architecture(root);
  DeepseekV4Config c;
  c.hidden_size = root.integer("hidden_size");
  c.num_hidden_layers = root.integer("num_hidden_layers", 1, kMaxLayers);
  c.num_attention_heads = root.integer("num_attention_heads");
  c.head_dim = root.integer("head_dim");
  c.qk_rope_head_dim = parse_rope_dim(root, c.head_dim);
  c.q_lora_rank = root.integer("q_lora_rank");
  c.o_groups = root.integer("o_groups");
  c.o_lora_rank = root.integer("o_lora_rank");
  c.moe_intermediate_size = root.integer_of({"moe_intermediate_size", "intermediate_size"});
  c.n_routed_experts = root.integer_of({"n_routed_experts", "num_local_experts"});
  c.n_shared_experts = root.integer("n_shared_experts");
  c.num_experts_per_tok = root.integer("num_experts_per_tok");
  c.num_hash_layers = parse_hash_layers(root, c.num_hidden_layers);
  c.routed_scaling_factor = root.positive("routed_scaling_factor");
  c.swiglu_limit = root.positive("swiglu_limit");
  c.index_n_heads = root.integer("index_n_heads");
  c.index_head_dim = root.integer("index_head_dim");
  c.index_topk = root.integer("index_topk");
  c.sliding_window = root.integer("sliding_window");
  c.compress_ratios = parse_compress_ratios(root, c.num_hidden_layers);
  parse_rope(root, c);
  c.hc_mult = root.integer("hc_mult", 1, kMaxStreams);
  c.hc_sinkhorn_iters = root.integer("hc_sinkhorn_iters", 1, 1000);
  c.hc_eps = root.positive("hc_eps");
  c.rms_norm_eps = root.positive("rms_norm_eps");
  c.vocab_size = root.integer("vocab_size");
  c.bos_token_id = root.token_id("bos_token_id", c.vocab_size);
  c.eos_token_id = root.token_id("eos_token_id", c.vocab_size);
  c.max_position_embeddings = root.integer("max_position_embeddings", 1, kMaxPositions);
  parse_tile(root, c);
  c.expert_dtype = root.maybe_string("expert_dtype").value_or("");
  if (!c.expert_dtype.empty() && c.expert_dtype != "fp8") root.only("expert_dtype", "fp4");
  check_widths(root, c);
  return c;
}

Json hub_config(const Json& config, const DeepseekV4Config& parsed) {
  Json hub = config;
  Json layer_types = Json::array(), mlp_layer_types = Json::array();
  for (uint64_t layer = 0; layer < parsed.num_hidden_layers; ++layer) {
    const uint32_t ratio = parsed.compress_ratios[layer];
    layer_types.push_back(ratio == 0   ? "sliding_attention"
                          : ratio == 4 ? "compressed_sparse_attention"
                                       : "heavily_compressed_attention");
    mlp_layer_types.push_back(parsed.is_hash_layer(layer) ? "hash_moe" : "moe");
  }
  hub["layer_types"] = std::move(layer_types);
  hub["mlp_layer_types"] = std::move(mlp_layer_types);
  hub["compress_rates"] = {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 128}};
  const double share = static_cast<double>(parsed.qk_rope_head_dim) / static_cast<double>(parsed.head_dim);
  hub["partial_rotary_factor"] = share;
  if (!config.contains("rope_parameters")) hub["rope_parameters"] = hub_rope(config, parsed, share);
  // A file with both spellings of the rotary embedding keeps both: where they stand together they agree.
  if (!config.contains("rope_parameters")) hub.erase("rope_scaling");
  for (const char* official :
       {"compress_ratios", "compress_rate_csa", "compress_rate_hca", "num_hash_layers", "qk_rope_head_dim"})
    hub.erase(official);
  if (hub.contains("torch_dtype")) {
    hub["dtype"] = hub["torch_dtype"];
    hub.erase("torch_dtype");
  }
  return hub;
}

}  // namespace nibblecast
