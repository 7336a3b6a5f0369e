#include "model/families/deepseek_v4/family.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/families/deepseek_v4/modules.h"
#include "model/families/deepseek_v4/synth.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/presets.h"

namespace nibblecast {
namespace {

struct NamedModule {
  std::string_view name;  // within its layer
  Role role;
  const char* tap;
};
// Attention's; the feed-forward half's names are those of an MLP.
constexpr NamedModule kModules[] = {
    {"attn.wq_a", Role::kQA, v4_tap::kAttentionIn},
    {"attn.wq_b", Role::kQB, v4_tap::kQueryRank},
    {"attn.wkv", Role::kKv, v4_tap::kAttentionIn},
    {"attn.wo_a", Role::kOA, v4_tap::kAttentionOut},
    {"attn.wo_b", Role::kOB, v4_tap::kOutRank},
    {"attn.compressor.wkv", Role::kCompressKv, v4_tap::kAttentionIn},
    {"attn.compressor.wgate", Role::kCompressGate, v4_tap::kAttentionIn},
    {"attn.indexer.wq_b", Role::kIndexQ, v4_tap::kQueryRank},
    {"attn.indexer.weights_proj", Role::kIndexWeights, v4_tap::kAttentionIn},
    {"attn.indexer.compressor.wkv", Role::kIndexCompressKv, v4_tap::kAttentionIn},
    {"attn.indexer.compressor.wgate", Role::kIndexCompressGate, v4_tap::kAttentionIn},
    {"ffn.gate", Role::kRouter, v4_tap::kFfnIn},
};
constexpr std::pair<std::string_view, Role> kProjections[] = {
    {"w1", Role::kGate}, {"w2", Role::kDown}, {"w3", Role::kUp}};

std::vector<Tap> taps_of(const DeepseekV4Config& config, uint64_t layer) {
  const float clamp = static_cast<float>(config.swiglu_limit * config.swiglu_limit);
  const double weighted = double{clamp} * std::max(1.0, config.routed_scaling_factor);
  const std::string norm = layer_module(layer, "ffn_norm.weight");
  std::vector<Tap> taps;
  for (const char* name : {v4_tap::kAttentionIn, v4_tap::kQueryRank, v4_tap::kAttentionOut, v4_tap::kOutRank})
    taps.push_back({.name = name});
  taps.push_back({.name = v4_tap::kFfnIn});
  taps.push_back({.name = v4_tap::kSharedMid});
  taps.push_back({.name = v4_tap::kExpertsIn,
                  .experts = config.n_routed_experts,
                  .norm = norm,
                  .width = config.hidden_size});
  taps.push_back({.name = v4_tap::kExpertsMid,
                  .experts = config.n_routed_experts,
                  .weighted = true,
                  .most = clamp,
                  .most_weighted = static_cast<float>(weighted)});
  return taps;
}

uint16_t tap_index(const std::vector<Tap>& taps, std::string_view name) {
  const auto found = std::ranges::find(taps, name, &Tap::name);
  return found == taps.end() ? kNoTap : static_cast<uint16_t>(found - taps.begin());
}

Role projection_of(std::string_view name) {
  for (const auto& [projection, role] : kProjections) {
    if (name.ends_with(projection)) return role;
  }
  return Role::kOther;
}

// What the module is, by its place in the layer.
void identify(WeightModule& module, std::string_view name, const std::vector<Tap>& taps) {
  for (const NamedModule& known : kModules) {
    if (known.name != name) continue;
    module.id.role = known.role;
    module.tap = tap_index(taps, known.tap);
    return;
  }
  module.id.shared = name.starts_with("ffn.shared_experts.");
  module.id.role = projection_of(name);
  const bool is_down = module.id.role == Role::kDown;
  if (module.id.shared)
    module.tap = tap_index(taps, is_down ? v4_tap::kSharedMid : v4_tap::kFfnIn);
  else
    module.tap = tap_index(taps, is_down ? v4_tap::kExpertsMid : v4_tap::kExpertsIn);
}

ModuleKind kind_of(Role role) {
  switch (role) {
    case Role::kOA:
      return ModuleKind::kGroupedLinear;
    case Role::kRouter:
      return ModuleKind::kRouter;
    case Role::kHead:
      return ModuleKind::kHead;
    case Role::kEmbedding:
      return ModuleKind::kEmbedding;
    default:
      return ModuleKind::kLinear;
  }
}

Role plain_role(std::string_view name) {
  static constexpr std::pair<std::string_view, Role> kRoles[] = {
      {"attn_norm.weight", Role::kInputNorm}, {"ffn_norm.weight", Role::kFfnNorm},
      {"norm.weight", Role::kFinalNorm},      {"ffn.gate.bias", Role::kRouterBias},
      {"attn.attn_sink", Role::kSinks},
  };
  for (const auto& [known, role] : kRoles) {
    if (known == name) return role;
  }
  return Role::kOther;
}

PlainKind plain_kind(const ModelTensor& tensor) {
  if (tensor.storage == Storage::kI64) return PlainKind::kInteger;
  if (tensor.shape.size() != 2) return PlainKind::kVector;
  return tensor.name.ends_with(".ape") ? PlainKind::kTable : PlainKind::kMatrix;
}

// Modules and other tensors of a layer (-1: outside of layers), whose names begin with `prefix`.
LayerTable table_of(const DeepseekV4Config& config, std::vector<ModelTensor> tensors, int32_t layer,
                    const std::string& prefix, std::vector<Tap> taps) {
  constexpr std::string_view kWeight = ".weight";
  LayerTable table{.modules = {}, .plain = {}, .taps = std::move(taps)};
  uint64_t next_expert = 0;  // its three projections follow each other
  for (ModelTensor& tensor : tensors) {
    const bool is_module = tensor.storage == Storage::kFp8Block || tensor.storage == Storage::kExpert;
    const std::string_view name = std::string_view(tensor.name).substr(prefix.size());
    if (!is_module && (tensor.shape.size() != 2 || !name.ends_with(kWeight))) {
      const std::optional<HubTensor> hub = hub_tensor(config, tensor.name);
      table.plain.push_back({.id = {.layer = layer, .role = plain_role(name)},
                             .name = tensor.name,
                             .hub_name = hub ? hub->name : "",
                             .kind = plain_kind(tensor),
                             .shape = tensor.shape});
      continue;
    }
    WeightModule module{.id = {.layer = layer}, .shape = std::move(tensor.shape)};
    module.name = is_module ? tensor.name : tensor.name.substr(0, tensor.name.size() - kWeight.size());
    module.hub_name = hub_module_name(module.name);
    if (layer < 0)
      module.id.role = module.name == "head" ? Role::kHead : Role::kEmbedding;
    else
      identify(module, std::string_view(module.name).substr(prefix.size()), table.taps);
    if (tensor.storage == Storage::kExpert) module.id.expert = static_cast<int32_t>(next_expert++ / 3);
    module.kind = kind_of(module.id.role);
    module.quantized_in_release = is_module;
    table.modules.push_back(std::move(module));
  }
  return table;
}

Model read(const Json& json, const std::string& file) {
  DeepseekV4Config config = DeepseekV4Config::parse(json, file);
  Model model{.family = std::string(kDeepseekV4Family.name), .model_type = "deepseek_v4"};
  model.vocabulary = {.size = config.vocab_size,
                      .bos_token_id = config.bos_token_id,
                      .eos_token_id = config.eos_token_id,
                      .max_position_embeddings = config.max_position_embeddings};
  model.table.globals = table_of(config, global_tensors(config), -1, "", {});
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    model.table.layers.push_back(table_of(config, layer_tensors(config, layer), static_cast<int32_t>(layer),
                                          layer_module(layer, ""), taps_of(config, layer)));
    model.table.layers.back().experts = config.n_routed_experts;
    model.table.layers.back().top = config.num_experts_per_tok;
  }
  model.table.passed_through = {"mtp."};
  model.spec = std::move(config);
  return model;
}

constexpr std::string_view kModelTypes[] = {"deepseek_v4"};
constexpr Preset kPresets[] = {{"v4-pro", v4_pro_config}, {"v4-flash", v4_flash_config}, {"v4-tiny", v4_tiny_config}};

}  // namespace

const Family kDeepseekV4Family = {
    .name = "deepseek_v4",
    .model_types = kModelTypes,
    .read = read,
    .presets = kPresets,
    .synth = synth_deepseek_v4,
    .hub_tensor = [](const Model& model, std::string_view name) {
      return hub_tensor(std::get<DeepseekV4Config>(model.spec), name);
    },
    .hub_config = [](const Json& config, const Model& model) {
      return hub_config(config, std::get<DeepseekV4Config>(model.spec));
    }};

}  // namespace nibblecast
