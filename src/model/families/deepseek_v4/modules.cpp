#include "model/families/deepseek_v4/modules.h"

#include <utility>

namespace nibblecast {
namespace {

constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"attn.wq_a", "self_attn.q_a_proj"},
    {"attn.wq_b", "self_attn.q_b_proj"},
    {"attn.wkv", "self_attn.kv_proj"},
    {"attn.wo_a", "self_attn.o_a_proj"},
    {"attn.wo_b", "self_attn.o_b_proj"},
    {"attn.compressor.wkv", "self_attn.compressor.kv_proj"},
    {"attn.compressor.wgate", "self_attn.compressor.gate_proj"},
    {"attn.indexer.wq_b", "self_attn.compressor.indexer.q_b_proj"},
    {"attn.indexer.weights_proj", "self_attn.compressor.indexer.scorer.weights_proj"},
    {"attn.indexer.compressor.wkv", "self_attn.compressor.indexer.kv_proj"},
    {"attn.indexer.compressor.wgate", "self_attn.compressor.indexer.gate_proj"},
    {"ffn.gate", "mlp.gate"},
};
// Tensors of a layer that are no module's weight.
constexpr std::pair<std::string_view, std::string_view> kLayerTensors[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"hc_attn_fn", "attn_hc.fn"},
    {"hc_attn_base", "attn_hc.base"},
    {"hc_attn_scale", "attn_hc.scale"},
    {"hc_ffn_fn", "ffn_hc.fn"},
    {"hc_ffn_base", "ffn_hc.base"},
    {"hc_ffn_scale", "ffn_hc.scale"},
    {"attn.q_norm.weight", "self_attn.q_a_norm.weight"},
    {"attn.kv_norm.weight", "self_attn.kv_norm.weight"},
    {"attn.attn_sink", "self_attn.sinks"},
    {"attn.compressor.ape", "self_attn.compressor.position_bias"},
    {"attn.compressor.norm.weight", "self_attn.compressor.kv_norm.weight"},
    {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"},
    {"attn.indexer.compressor.norm.weight", "self_attn.compressor.indexer.kv_norm.weight"},
    {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn.gate.tid2eid", "mlp.gate.tid2eid"},
};
constexpr std::pair<std::string_view, std::string_view> kGlobalTensors[] = {
    {"norm.weight", "model.norm.weight"},
    {"hc_head_fn", "model.hc_head.hc_fn"},
    {"hc_head_base", "model.hc_head.hc_base"},
    {"hc_head_scale", "model.hc_head.hc_scale"},
};
constexpr std::pair<std::string_view, std::string_view> kExpertNames[] = {
    {"w1", "gate_proj"}, {"w2", "down_proj"}, {"w3", "up_proj"}};

template <size_t kCount>
std::string_view hub_name_in(const std::pair<std::string_view, std::string_view> (&names)[kCount],
                             std::string_view official) {
  for (const auto& [name, hub_name] : names) {
    if (name == official) return hub_name;
  }
  return {};
}

// "3.attn.wq_a" -> {"3", "attn.wq_a"}; the number as digits, or empty where there is none.
std::pair<std::string_view, std::string_view> split_number(std::string_view text) {
  const size_t dot = text.find('.');
  const std::string_view number = text.substr(0, dot);
  const bool is_number =
      dot != text.npos && !number.empty() && number.find_first_not_of("0123456789") == number.npos;
  if (!is_number) return {};
  return {number, text.substr(dot + 1)};
}

std::string hub_ffn_name(std::string_view name) {
  constexpr std::string_view kShared = "ffn.shared_experts.", kRouted = "ffn.experts.";
  if (name.starts_with(kShared)) {
    const std::string_view hub = hub_name_in(kExpertNames, name.substr(kShared.size()));
    return hub.empty() ? "" : "mlp.shared_experts." + std::string(hub);
  }
  if (!name.starts_with(kRouted)) return "";
  const auto [expert, projection] = split_number(name.substr(kRouted.size()));
  const std::string_view hub = hub_name_in(kExpertNames, projection);
  return hub.empty() ? "" : "mlp.experts." + std::string(expert) + "." + std::string(hub);
}

// Gates (w1) and ups (w3) of an expert follow each other.
HubTensor stacked_expert(const DeepseekV4Config& config, const ExpertName& name) {
  const uint64_t experts = config.n_routed_experts, width = config.moe_intermediate_size;
  const std::string prefix = "model.layers." + std::to_string(name.layer) + ".mlp.experts.";
  if (name.projection == 2) {
    return {.name = prefix + "down_proj",
            .part = name.expert,
            .parts = experts,
            .whole = Shape{experts, config.hidden_size, width}};
  }
  return {.name = prefix + "gate_up_proj",
          .part = name.expert * 2 + (name.projection == 3 ? 1 : 0),
          .parts = experts * 2,
          .whole = Shape{experts, width * 2, config.hidden_size}};
}

}  // namespace

std::string hub_module_name(std::string_view official_name) {
  constexpr std::string_view kLayers = "layers.";
  if (official_name == "embed") return "model.embed_tokens";
  if (official_name == "head") return "lm_head";
  if (!official_name.starts_with(kLayers)) return "";
  const auto [layer, name] = split_number(official_name.substr(kLayers.size()));
  std::string hub(hub_name_in(kLayerNames, name));
  if (hub.empty()) hub = hub_ffn_name(name);
  return hub.empty() ? "" : "model.layers." + std::string(layer) + "." + hub;
}

std::optional<HubTensor> hub_tensor(const DeepseekV4Config& config, std::string_view official_name) {
  constexpr std::string_view kLayers = "layers.", kWeight = ".weight";
  if (official_name.ends_with(kWeight)) {
    const std::string_view module = official_name.substr(0, official_name.size() - kWeight.size());
    if (const auto expert = parse_expert_name(module)) {
      if (expert->expert >= config.n_routed_experts) return std::nullopt;
      return stacked_expert(config, *expert);
    }
    if (const std::string name = hub_module_name(module); !name.empty())
      return HubTensor{.name = name + std::string(kWeight)};
  }
  if (const std::string_view name = hub_name_in(kGlobalTensors, official_name); !name.empty())
    return HubTensor{.name = std::string(name)};
  if (!official_name.starts_with(kLayers)) return std::nullopt;
  const auto [layer, tensor] = split_number(official_name.substr(kLayers.size()));
  const std::string_view name = hub_name_in(kLayerTensors, tensor);
  if (name.empty()) return std::nullopt;
  return HubTensor{.name = "model.layers." + std::string(layer) + "." + std::string(name)};
}

}  // namespace nibblecast
