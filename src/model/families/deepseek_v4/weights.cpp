#include "model/families/deepseek_v4/weights.h"

#include <utility>

namespace nibblecast {
namespace {

// Hands tensors out under one prefix.
class Tensors {
 public:
  Tensors(const DeepseekV4Config& config, std::string prefix, const StoredTensors& stored)
      : config_(config),
        prefix_(std::move(prefix)),
        stored_(stored, {.rows = config.tile_rows, .cols = config.tile_cols}) {}

  WeightView linear(const std::string& module, size_t rows, size_t cols) const {
    return stored_.linear(prefix_ + module, rows, cols);
  }
  std::vector<float> floats(const std::string& name, const Shape& shape) const {
    return stored_.floats(prefix_ + name, shape);
  }
  std::vector<int64_t> integers(const std::string& name, const Shape& shape) const {
    return stored_.integers(prefix_ + name, shape);
  }
  HyperConnection hyper(const std::string& name, size_t outputs, size_t scales) const {
    return {.streams = config_.hc_mult,
            .width = config_.hidden_size,
            .sinkhorn_iterations = config_.hc_sinkhorn_iters,
            .eps = static_cast<float>(config_.hc_eps),
            .norm_eps = static_cast<float>(config_.rms_norm_eps),
            .fn = floats(name + "_fn", {outputs, config_.hc_mult * config_.hidden_size}),
            .base = floats(name + "_base", {outputs}),
            .scale = floats(name + "_scale", {scales})};
  }
  CompressorWeights compressor(const std::string& module, uint64_t ratio, size_t dim) const {
    const CompressorShape shape{.ratio = ratio, .dim = dim, .overlap = ratio == 4};
    return {.shape = shape,
            .wkv = linear(module + ".wkv", shape.channels(), config_.hidden_size),
            .wgate = linear(module + ".wgate", shape.channels(), config_.hidden_size),
            .ape = floats(module + ".ape", {ratio, shape.channels()}),
            .norm = floats(module + ".norm.weight", {dim})};
  }

 private:
  const DeepseekV4Config& config_;
  const std::string prefix_;
  const StoredReader stored_;
};

std::string layer_prefix(uint64_t layer) { return "layers." + std::to_string(layer) + "."; }

size_t mix_outputs(const DeepseekV4Config& config) { return (2 + config.hc_mult) * config.hc_mult; }

}  // namespace

AttentionWeights attention_weights(const DeepseekV4Config& config, uint64_t layer,
                                   const StoredTensors& stored) {
  const Tensors tensors(config, layer_prefix(layer), stored);
  const size_t width = config.hidden_size, heads = config.num_attention_heads, head_dim = config.head_dim;
  const size_t q_rank = config.q_lora_rank, o_width = config.o_groups * config.o_lora_rank;
  AttentionWeights weights{.hyper = tensors.hyper("hc_attn", mix_outputs(config), 3),
                           .attn_norm = tensors.floats("attn_norm.weight", {width}),
                           .q_norm = tensors.floats("attn.q_norm.weight", {q_rank}),
                           .kv_norm = tensors.floats("attn.kv_norm.weight", {head_dim}),
                           .sinks = tensors.floats("attn.attn_sink", {heads}),
                           .wq_a = tensors.linear("attn.wq_a", q_rank, width),
                           .wq_b = tensors.linear("attn.wq_b", heads * head_dim, q_rank),
                           .wkv = tensors.linear("attn.wkv", head_dim, width),
                           .wo_a = tensors.linear("attn.wo_a", o_width, heads * head_dim / config.o_groups),
                           .wo_b = tensors.linear("attn.wo_b", width, o_width),
                           .compressor = std::nullopt,
                           .indexer = std::nullopt};
  const uint64_t ratio = config.compress_ratios.at(layer);
  if (ratio != 0) weights.compressor = tensors.compressor("attn.compressor", ratio, head_dim);
  if (ratio == 4) {
    const size_t index_width = config.index_n_heads * config.index_head_dim;
    weights.indexer = IndexerWeights{
        .wq_b = tensors.linear("attn.indexer.wq_b", index_width, q_rank),
        .weights_proj = tensors.linear("attn.indexer.weights_proj", config.index_n_heads, width),
        .compressor = tensors.compressor("attn.indexer.compressor", ratio, config.index_head_dim)};
  }
  return weights;
}

FfnWeights ffn_weights(const DeepseekV4Config& config, uint64_t layer, const StoredTensors& stored) {
  const Tensors tensors(config, layer_prefix(layer), stored);
  const size_t width = config.hidden_size, inner = config.moe_intermediate_size,
               experts = config.n_routed_experts;
  FfnWeights weights{.hyper = tensors.hyper("hc_ffn", mix_outputs(config), 3),
                     .ffn_norm = tensors.floats("ffn_norm.weight", {width}),
                     .gate = tensors.linear("ffn.gate", experts, width),
                     .bias = {},
                     .tid2eid = {},
                     .shared = {.w1 = tensors.linear("ffn.shared_experts.w1", inner, width),
                                .w2 = tensors.linear("ffn.shared_experts.w2", width, inner),
                                .w3 = tensors.linear("ffn.shared_experts.w3", inner, width)}};
  if (config.is_hash_layer(layer)) {
    weights.tid2eid = tensors.integers("ffn.gate.tid2eid", {config.vocab_size, config.num_experts_per_tok});
  } else {
    weights.bias = tensors.floats("ffn.gate.bias", {experts});
  }
  return weights;
}

HeadWeights head_weights(const DeepseekV4Config& config, const StoredTensors& stored) {
  const Tensors tensors(config, "", stored);
  return {.hyper = tensors.hyper("hc_head", config.hc_mult, 1),
          .norm = tensors.floats("norm.weight", {config.hidden_size})};
}

}  // namespace nibblecast
