#include "model/model.h"

#include <algorithm>

namespace nibblecast {
namespace {

double product_flops(const Shape& shape) {
  return 2 * static_cast<double>(shape[0]) * static_cast<double>(shape[1]);
}

double plain_flops(const LayerTable& table) {
  double flops = 0;
  for (const PlainTensor& tensor : table.plain)
    if (tensor.kind == PlainKind::kMatrix) flops += product_flops(tensor.shape);
  return flops;
}

// Of V4's compressed entries the indexer scores all, of which the queries then see index_topk.
double score_flops(const DeepseekV4Config& config, uint64_t layer, uint64_t length) {
  const double seen = static_cast<double>(length) / 2;  // of a row, by its average token
  const double raw = std::min(static_cast<double>(config.sliding_window), seen);
  const uint32_t ratio = config.compress_ratios[layer];
  double entries = ratio == 0 ? 0 : seen / ratio;
  double scored = 0;
  if (ratio == 4 && static_cast<double>(length) / ratio > static_cast<double>(config.index_topk)) {
    scored = entries;
    entries = std::min(entries, static_cast<double>(config.index_topk));
  }
  return 4 * static_cast<double>(config.num_attention_heads * config.head_dim) * (raw + entries) +
         2 * static_cast<double>(config.index_n_heads * config.index_head_dim) * scored;
}

double mixer_flops(const GqaShape& shape, uint64_t length) {
  const double seen = static_cast<double>(length) / 2;
  const double keys = shape.window == 0 ? seen : std::min(seen, static_cast<double>(shape.window));
  return 2 * static_cast<double>(shape.heads * (shape.key_width + shape.value_width)) * keys;
}

double mixer_flops(const GqaSpec& gqa, uint64_t length) { return mixer_flops(score_shape(gqa), length); }
double mixer_flops(const MlaSpec& mla, uint64_t length) { return mixer_flops(score_shape(mla), length); }

// The state is decayed, asked, corrected and asked again.
double mixer_flops(const DeltaNetSpec& net, uint64_t) { return 7 * static_cast<double>(net.shape.state()); }

double score_flops(const DecoderSpec& spec, uint64_t layer, uint64_t length) {
  return std::visit([&](const auto& mixer) { return mixer_flops(mixer, length); }, spec.layers[layer].mixer);
}

double score_flops(const NoForwardPass&, uint64_t, uint64_t) { return 0; }

uint64_t hidden_size(const DeepseekV4Config& config) { return config.hidden_size; }
uint64_t hidden_size(const DecoderSpec& spec) { return spec.hidden; }
uint64_t hidden_size(const NoForwardPass& spec) { return spec.hidden; }

}  // namespace

uint64_t Model::carried_width() const {
  const auto* const config = std::get_if<DeepseekV4Config>(&spec);
  const uint64_t streams = config == nullptr ? 1 : config->hc_mult;
  return streams * std::visit([](const auto& each) { return hidden_size(each); }, spec);
}

LayerFlops layer_flops(const Model& model, uint64_t layer) {
  const LayerTable& table = model.table.layers[layer];
  LayerFlops flops{.attention = plain_flops(table)};
  for (const WeightModule& module : table.modules) {
    const double product = product_flops(module.shape);
    if (module.is_routed_expert())
      flops.routed += product * static_cast<double>(table.top) / static_cast<double>(table.experts);
    else if (module.streams())
      flops.routed += product;
    else
      (module.id.shared ? flops.shared : flops.attention) += product;
  }
  return flops;
}

double head_flops(const Model& model) {
  const double vocab = static_cast<double>(model.vocabulary.size);
  const uint64_t hidden = std::visit([](const auto& spec) { return hidden_size(spec); }, model.spec);
  return 2 * vocab * static_cast<double>(hidden) + plain_flops(model.table.globals);
}

double score_flops(const Model& model, uint64_t layer, uint64_t length) {
  return std::visit([&](const auto& spec) { return score_flops(spec, layer, length); }, model.spec);
}

}  // namespace nibblecast
