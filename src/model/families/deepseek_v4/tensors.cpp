#include "model/families/deepseek_v4/tensors.h"

#include <utility>

#include "base/integers.h"

namespace nibblecast {
namespace {

// Collects the tensors under one prefix.
class Table {
 public:
  explicit Table(std::string prefix) : prefix_(std::move(prefix)) {}
  void add(const std::string& name, Storage storage, Shape shape) {
    tensors_.push_back({prefix_ + name, storage, std::move(shape)});
  }
  std::vector<ModelTensor> take() { return std::move(tensors_); }

 private:
  std::string prefix_;
  std::vector<ModelTensor> tensors_;
};

// `dim` is the width of an entry; the ratio-4 kind has two overlapping windows, hence twice the channels.
void add_compressor(Table& table, const std::string& prefix, uint64_t ratio, uint64_t dim, uint64_t hidden) {
  const uint64_t channels = (ratio == 4 ? 2 : 1) * dim;
  table.add(prefix + "ape", Storage::kF32, {ratio, channels});
  table.add(prefix + "wkv.weight", Storage::kBF16, {channels, hidden});
  table.add(prefix + "wgate.weight", Storage::kBF16, {channels, hidden});
  table.add(prefix + "norm.weight", Storage::kBF16, {dim});
}

void add_attention(Table& table, const DeepseekV4Config& c, uint64_t ratio) {
  const uint64_t q_width = c.num_attention_heads * c.head_dim;
  const uint64_t o_width = c.o_groups * c.o_lora_rank;
  table.add("attn.wq_a", Storage::kFp8Block, {c.q_lora_rank, c.hidden_size});
  table.add("attn.q_norm.weight", Storage::kBF16, {c.q_lora_rank});
  table.add("attn.wq_b", Storage::kFp8Block, {q_width, c.q_lora_rank});
  table.add("attn.wkv", Storage::kFp8Block, {c.head_dim, c.hidden_size});
  table.add("attn.kv_norm.weight", Storage::kBF16, {c.head_dim});
  table.add("attn.attn_sink", Storage::kF32, {c.num_attention_heads});
  table.add("attn.wo_a", Storage::kFp8Block, {o_width, q_width / c.o_groups});
  table.add("attn.wo_b", Storage::kFp8Block, {c.hidden_size, o_width});
  if (ratio != 0) add_compressor(table, "attn.compressor.", ratio, c.head_dim, c.hidden_size);
  if (ratio == 4) {
    table.add("attn.indexer.wq_b", Storage::kFp8Block, {c.index_n_heads * c.index_head_dim, c.q_lora_rank});
    table.add("attn.indexer.weights_proj.weight", Storage::kBF16, {c.index_n_heads, c.hidden_size});
    add_compressor(table, "attn.indexer.compressor.", ratio, c.index_head_dim, c.hidden_size);
  }
}

void add_hyper_connection(Table& table, const DeepseekV4Config& c, const std::string& name) {
  // pre and post: one value a stream each; comb: streams x streams.
  const uint64_t values = (2 + c.hc_mult) * c.hc_mult;
  table.add(name + "_fn", Storage::kF32, {values, c.hc_mult * c.hidden_size});
  table.add(name + "_base", Storage::kF32, {values});
  table.add(name + "_scale", Storage::kF32, {3});
}

void add_hc_head(Table& table, const DeepseekV4Config& c) {
  table.add("hc_head_fn", Storage::kF32, {c.hc_mult, c.hc_mult * c.hidden_size});
  table.add("hc_head_base", Storage::kF32, {c.hc_mult});
  table.add("hc_head_scale", Storage::kF32, {1});
}

void add_expert(Table& table, const DeepseekV4Config& c, const std::string& prefix, Storage storage) {
  table.add(prefix + "w1", storage, {c.moe_intermediate_size, c.hidden_size});
  table.add(prefix + "w2", storage, {c.hidden_size, c.moe_intermediate_size});
  table.add(prefix + "w3", storage, {c.moe_intermediate_size, c.hidden_size});
}

void add_ffn(Table& table, const DeepseekV4Config& c, bool is_hash) {
  table.add("ffn.gate.weight", Storage::kBF16, {c.n_routed_experts, c.hidden_size});
  if (is_hash) {
    table.add("ffn.gate.tid2eid", Storage::kI64, {c.vocab_size, c.num_experts_per_tok});
  } else {
    table.add("ffn.gate.bias", Storage::kF32, {c.n_routed_experts});
  }
  add_expert(table, c, "ffn.shared_experts.", Storage::kFp8Block);
  for (uint64_t expert = 0; expert < c.n_routed_experts; ++expert) {
    add_expert(table, c, "ffn.experts." + std::to_string(expert) + ".", Storage::kExpert);
  }
}

void add_block(Table& table, const DeepseekV4Config& c, uint64_t ratio, bool is_hash) {
  add_attention(table, c, ratio);
  table.add("attn_norm.weight", Storage::kBF16, {c.hidden_size});
  table.add("ffn_norm.weight", Storage::kBF16, {c.hidden_size});
  add_hyper_connection(table, c, "hc_attn");
  add_hyper_connection(table, c, "hc_ffn");
  add_ffn(table, c, is_hash);
}

Tensor make_tensor(std::string name, Dtype dtype, Shape shape) {
  Tensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.size_bytes = element_count(shape).value() * dtype_bytes(dtype);  // the config bounds every shape
  tensor.shape = std::move(shape);
  return tensor;
}

}  // namespace

std::vector<ModelTensor> layer_tensors(const DeepseekV4Config& config, uint64_t layer) {
  Table table("layers." + std::to_string(layer) + ".");
  add_block(table, config, config.compress_ratios.at(layer), config.is_hash_layer(layer));
  return table.take();
}

std::vector<ModelTensor> global_tensors(const DeepseekV4Config& config) {
  Table table("");
  table.add("embed.weight", Storage::kBF16, {config.vocab_size, config.hidden_size});
  table.add(kHeadWeight, Storage::kBF16, {config.vocab_size, config.hidden_size});
  table.add("norm.weight", Storage::kBF16, {config.hidden_size});
  add_hc_head(table, config);
  return table.take();
}

std::vector<std::string> head_tensor_names() {
  return {"norm.weight", "hc_head_fn", "hc_head_base", "hc_head_scale"};
}

std::vector<ModelTensor> mtp_tensors(const DeepseekV4Config& config) {
  Table table("mtp.0.");
  table.add("e_proj", Storage::kFp8Block, {config.hidden_size, config.hidden_size});
  table.add("h_proj", Storage::kFp8Block, {config.hidden_size, config.hidden_size});
  for (const char* norm : {"enorm.weight", "hnorm.weight", "norm.weight"}) {
    table.add(norm, Storage::kBF16, {config.hidden_size});
  }
  add_hc_head(table, config);
  add_block(table, config, /*ratio=*/0, /*is_hash=*/false);
  return table.take();
}

std::vector<Tensor> release_tensors(const DeepseekV4Config& config, const ModelTensor& tensor) {
  const Shape& shape = tensor.shape;
  const bool is_base = config.expert_dtype == "fp8";
  const auto fp8_block = [&]() -> std::vector<Tensor> {
    return {make_tensor(tensor.name + ".weight", Dtype::kF8E4M3, shape),
            make_tensor(tensor.name + ".scale", is_base ? Dtype::kF32 : Dtype::kF8E8M0,
                        {ceil_div(shape[0], config.tile_rows), ceil_div(shape[1], config.tile_cols)})};
  };
  switch (tensor.storage) {
    case Storage::kBF16:
      return {make_tensor(tensor.name, Dtype::kBF16, shape)};
    case Storage::kF32:
      return {make_tensor(tensor.name, Dtype::kF32, shape)};
    case Storage::kI64:
      return {make_tensor(tensor.name, Dtype::kI64, shape)};
    case Storage::kFp8Block:
      return fp8_block();
    case Storage::kExpert:
      if (is_base) return fp8_block();
      return {make_tensor(tensor.name + ".weight", Dtype::kI8, {shape[0], shape[1] / 2}),
              make_tensor(tensor.name + ".scale", Dtype::kF8E8M0, {shape[0], shape[1] / 32})};
  }
  return {};
}

}  // namespace nibblecast
