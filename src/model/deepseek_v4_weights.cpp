#include "model/deepseek_v4_weights.h"

#include <cstring>

#include "base/error.h"
#include "model/deepseek_v4_tensors.h"

namespace nibblecast {
namespace {

// Looks tensors up under one prefix and hands them out in the form that the forward pass wants.
class Tensors {
 public:
  Tensors(const DeepseekV4Config& config, std::string prefix, const StoredTensors& stored)
      : config_(config), prefix_(std::move(prefix)), stored_(stored) {}

  WeightView fp8(const std::string& module, size_t rows, size_t cols) const {
    const size_t tile_rows = config_.tile_rows, tile_cols = config_.tile_cols;
    const StoredTensor& codes = find(module + ".weight", {Dtype::kF8E4M3}, {rows, cols});
    const StoredTensor& scales =
        find(module + ".scale", {Dtype::kF8E8M0, Dtype::kF32},
             {(rows + tile_rows - 1) / tile_rows, (cols + tile_cols - 1) / tile_cols});
    return Fp8BlockView{.codes = reinterpret_cast<const uint8_t*>(codes.bytes.data()),
                        .scales = scales.bytes.data(),
                        .scale_type = scales.dtype == Dtype::kF32 ? ScaleType::kF32 : ScaleType::kE8M0,
                        .rows = rows,
                        .cols = cols,
                        .tile_rows = tile_rows,
                        .tile_cols = tile_cols};
  }
  WeightView bf16_matrix(const std::string& name, size_t rows, size_t cols) const {
    return Bf16View{find(name, {Dtype::kBF16}, {rows, cols}).bytes.data(), rows, cols};
  }
  // BF16 or F32, as FP32.
  std::vector<float> floats(const std::string& name, const Shape& shape) const {
    const StoredTensor& tensor = find(name, {Dtype::kF32, Dtype::kBF16}, shape);
    const size_t count = tensor.bytes.size() / dtype_bytes(tensor.dtype);
    std::vector<float> values(count);
    if (tensor.dtype == Dtype::kF32)
      read_weight(F32View{tensor.bytes.data(), 1, count}, 0, 1, values.data());
    else
      read_weight(Bf16View{tensor.bytes.data(), 1, count}, 0, 1, values.data());
    return values;
  }
  std::vector<int64_t> integers(const std::string& name, const Shape& shape) const {
    const StoredTensor& tensor = find(name, {Dtype::kI64}, shape);
    std::vector<int64_t> values(tensor.bytes.size() / sizeof(int64_t));
    if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
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
            .wkv = bf16_matrix(module + ".wkv.weight", shape.channels(), config_.hidden_size),
            .wgate = bf16_matrix(module + ".wgate.weight", shape.channels(), config_.hidden_size),
            .ape = floats(module + ".ape", {ratio, shape.channels()}),
            .norm = floats(module + ".norm.weight", {dim})};
  }

 private:
  const StoredTensor& find(const std::string& name, std::initializer_list<Dtype> dtypes,
                           const Shape& shape) const {
    const std::string full = prefix_ + name;
    const auto found = stored_.find(full);
    if (found == stored_.end()) throw Error(ErrorKind::kBadInput, {.tensor = full}, "is missing");
    const StoredTensor& tensor = found->second;
    bool known = false;
    std::string expected;
    for (const Dtype dtype : dtypes) {
      known = known || tensor.dtype == dtype;
      expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    }
    const bool complete = tensor.bytes.size() == element_count(shape).value_or(0) * dtype_bytes(tensor.dtype);
    if (!known || tensor.shape != shape || !complete) {
      throw Error(ErrorKind::kBadInput, {.tensor = full}, "does not fit the model's configuration",
                  {.expected = expected + " " + shape_text(shape),
                   .found = std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape) + " in " +
                            std::to_string(tensor.bytes.size()) + " bytes"});
    }
    return tensor;
  }

  const DeepseekV4Config& config_;
  std::string prefix_;
  const StoredTensors& stored_;
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
                           .wq_a = tensors.fp8("attn.wq_a", q_rank, width),
                           .wq_b = tensors.fp8("attn.wq_b", heads * head_dim, q_rank),
                           .wkv = tensors.fp8("attn.wkv", head_dim, width),
                           .wo_a = tensors.fp8("attn.wo_a", o_width, heads * head_dim / config.o_groups),
                           .wo_b = tensors.fp8("attn.wo_b", width, o_width),
                           .compressor = std::nullopt,
                           .indexer = std::nullopt};
  const uint64_t ratio = config.compress_ratios.at(layer);
  if (ratio != 0) weights.compressor = tensors.compressor("attn.compressor", ratio, head_dim);
  if (ratio == 4) {
    const size_t index_width = config.index_n_heads * config.index_head_dim;
    weights.indexer = IndexerWeights{
        .wq_b = tensors.fp8("attn.indexer.wq_b", index_width, q_rank),
        .weights_proj = tensors.bf16_matrix("attn.indexer.weights_proj.weight", config.index_n_heads, width),
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
                     .gate = tensors.bf16_matrix("ffn.gate.weight", experts, width),
                     .bias = {},
                     .tid2eid = {},
                     .shared = {.w1 = tensors.fp8("ffn.shared_experts.w1", inner, width),
                                .w2 = tensors.fp8("ffn.shared_experts.w2", width, inner),
                                .w3 = tensors.fp8("ffn.shared_experts.w3", inner, width)}};
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
