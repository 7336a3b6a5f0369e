#include "model/decoder_family.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "model/config_reader.h"
#include "model/families/decoder_config.h"
#include "model/families/decoder_presets.h"
#include "model/families/decoder_row.h"
#include "model/families/decoder_table.h"

namespace nibblecast {
namespace {

// What speaks of the text model.
ConfigReader text_of(const ConfigReader& config, const DecoderRow& row) {
  if (row.section.empty()) return config;
  const std::string key(row.section);
  const std::optional<ConfigReader> section = config.maybe_section(key);
  if (!section) config.refuse_missing(key);
  section->only("model_type", std::string(row.section_type));
  return *section;
}

bool has_tied_head(const ConfigReader& config, const ConfigReader& text) {
  const char* key = "tie_word_embeddings";
  const std::optional<bool> outer = config.maybe_flag(key), inner = text.maybe_flag(key);
  if (outer && inner && *outer != *inner)
    config.refuse_contradiction(key, *outer ? "true" : "false", key, *inner ? "true" : "false");
  return outer ? *outer : inner.value_or(false);
}

// Draft layers follow the others; nobody but the engine uses them.
void pass_drafts(const ConfigReader& config, const DecoderRow& row, ModelTable& table) {
  const std::vector<std::string> keys = {std::string(row.drafts_key), std::string(row.drafts_alias)};
  const uint64_t drafts = config.maybe_integer_of(keys, 0, kMaxLayers).value_or(row.drafts);
  for (uint64_t draft = 0; draft < drafts; ++draft)
    table.passed_through.push_back("model.layers." + std::to_string(table.layers.size() + draft) + ".");
}

Model read(const Json& json, const std::string& file) {
  const ConfigReader whole(json, file);
  const DecoderRow& row = decoder_row(whole.maybe_string("model_type").value_or(""));
  const ConfigReader config = text_of(whole, row);
  Model model{.family = std::string(row.model_type), .model_type = std::string(row.model_type)};
  DecoderSpec spec = read_decoder(config, row);
  model.table = decoder_table(spec, row, has_tied_head(whole, config));
  pass_drafts(config, row, model.table);
  model.vocabulary = {.size = spec.vocab,
                      .bos_token_id = config.token_id("bos_token_id", spec.vocab),
                      .eos_token_id = config.token_id("eos_token_id", spec.vocab),
                      .max_position_embeddings =
                          config.maybe_integer("max_position_embeddings", 1, kMaxPositions).value_or(0)};
  model.tiles = tile_size(json, file);
  model.spec = std::move(spec);
  return model;
}

Tensor stored_tensor(const std::string& name, const Shape& shape, Dtype dtype) {
  const uint64_t bytes = element_count(shape).value_or(0) * dtype_bytes(dtype);
  return {.name = name, .dtype = dtype, .shape = shape, .size_bytes = bytes};
}

// Stacked experts in place of single ones.
void add_stacks(const LayerTable& table, std::vector<Tensor>& tensors) {
  const auto shape_of = [&](Role role) {
    const auto found = std::ranges::find_if(table.modules, [&](const WeightModule& module) {
      return module.is_routed_expert() && module.id.role == role;
    });
    return found->shape;
  };
  const Shape up = shape_of(Role::kUp), down = shape_of(Role::kDown);
  tensors.push_back(stored_tensor(table.stacks.gate_up, {table.experts, 2 * up[0], up[1]}, Dtype::kBF16));
  tensors.push_back(stored_tensor(table.stacks.down, {table.experts, down[0], down[1]}, Dtype::kBF16));
}

// BF16, but for the bias of the router's choices, which releases keep in F32.
std::vector<Tensor> stored(const Model& model, std::optional<uint64_t> layer) {
  const LayerTable& table = layer ? model.table.layers[*layer] : model.table.globals;
  std::vector<Tensor> tensors;
  const bool stacked = !table.stacks.down.empty();
  for (const WeightModule& module : table.modules) {
    if (stacked && module.is_routed_expert()) continue;
    tensors.push_back(stored_tensor(module.name + ".weight", module.shape, Dtype::kBF16));
  }
  if (stacked) add_stacks(table, tensors);
  for (const PlainTensor& plain : table.plain) {
    const Dtype dtype = plain.id.role == Role::kRouterBias ? Dtype::kF32 : Dtype::kBF16;
    tensors.push_back(stored_tensor(plain.name, plain.shape, dtype));
  }
  return tensors;
}

constexpr std::string_view kModelTypes[] = {
    "llama",      "mistral", "qwen2",      "qwen3",        "qwen3_moe",        "mixtral", "glm4_moe",
    "minimax_m2", "hy_v3",   "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"};

constexpr Preset kPresets[] = {
    {"qwen3-8b", qwen3_8b_config},
    {"qwen3-32b", qwen3_32b_config},
    {"qwen3-30b-a3b", qwen3_30b_a3b_config},
    {"qwen3-235b-a22b", qwen3_235b_a22b_config},
    {"llama-3.1-8b", llama_3_1_8b_config},
    {"llama-3.3-70b", llama_3_3_70b_config},
    {"mixtral-8x7b", mixtral_8x7b_config},
    {"glm-4.5-air", glm_4_5_air_config},
    {"glm-4.6", glm_4_6_config},
    {"qwen3-next-80b-a3b", qwen3_next_80b_a3b_config},
    {"qwen3.5-27b", qwen3_5_27b_config},
    {"qwen3.5-35b-a3b", qwen3_5_35b_a3b_config},
    {"qwen3.5-397b-a17b", qwen3_5_397b_a17b_config},
    {"qwen3-tiny", qwen3_tiny_config},
    {"qwen3-moe-tiny", qwen3_moe_tiny_config},
    {"qwen3.5-tiny", qwen3_5_tiny_config},
    {"qwen3.5-moe-tiny", qwen3_5_moe_tiny_config},
};

}  // namespace

const Family kDecoderFamily = {
    .name = "decoder", .model_types = kModelTypes, .read = read, .presets = kPresets, .stored = stored};

}  // namespace nibblecast
