#include "plan/flops.h"

#include <algorithm>

#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

LayerFlops layer_flops(const DeepseekV4Config& config, uint64_t layer) {
  LayerFlops flops;
  for (const ModelTensor& tensor : layer_tensors(config, layer)) {
    const bool is_table = tensor.storage == Storage::kI64 || tensor.name.ends_with(".ape");
    if (tensor.shape.size() != 2 || is_table) continue;
    const double product = 2 * static_cast<double>(tensor.shape[0]) * static_cast<double>(tensor.shape[1]);
    if (tensor.storage == Storage::kExpert) {
      flops.routed += product * static_cast<double>(config.num_experts_per_tok) /
                      static_cast<double>(config.n_routed_experts);
    } else if (tensor.name.find(".shared_experts.") != std::string::npos) {
      flops.shared += product;
    } else {
      flops.attention += product;
    }
  }
  return flops;
}

double head_flops(const DeepseekV4Config& config) {
  return 2 * static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
}

double score_flops(const DeepseekV4Config& config, uint64_t layer, uint64_t length) {
  const double seen = static_cast<double>(length) / 2;  // of a row, by its average token
  const double raw = std::min(static_cast<double>(config.sliding_window), seen);
  const uint32_t ratio = config.compress_ratios[layer];
  double entries = ratio == 0 ? 0 : seen / ratio;
  double scored = 0;  // by the indexer, of which the queries then see index_topk
  if (ratio == 4 && static_cast<double>(length) / ratio > static_cast<double>(config.index_topk)) {
    scored = entries;
    entries = std::min(entries, static_cast<double>(config.index_topk));
  }
  return 4 * static_cast<double>(config.num_attention_heads * config.head_dim) * (raw + entries) +
         2 * static_cast<double>(config.index_n_heads * config.index_head_dim) * scored;
}

}  // namespace nibblecast
