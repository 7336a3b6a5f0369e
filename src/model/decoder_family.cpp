#include "model/decoder_family.h"

#include <algorithm>
#include <cmath>
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
  if (row.section_alias.empty() || section->maybe_string("model_type") != row.section_alias)
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
  const std::optional<uint64_t> declared = config.maybe_integer_of(keys, 0, kMaxLayers);
  for (uint64_t draft = 0; draft < declared.value_or(row.drafts); ++draft)
    table.passed_through.push_back("model.layers." + std::to_string(table.layers.size() + draft) + ".");
  if (declared)
    table.declared_drafts = {table.passed_through.end() - static_cast<ptrdiff_t>(*declared),
                             table.passed_through.end()};
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

Fill uniform(double center, double half_width) { return {.center = center, .half_width = half_width}; }

// An input of rms 1 gives an output of the module of this rms: the head makes some tokens clearly more likely
// than others, routing depends on the token.
Fill fill_of(const WeightModule& module, bool tied_head) {
  const bool is_head = module.kind == (tied_head ? ModuleKind::kEmbedding : ModuleKind::kHead);
  const double gain = is_head ? 2 : module.kind == ModuleKind::kRouter ? 1.5 : 1;
  const bool is_looked_up = module.kind == ModuleKind::kEmbedding && !is_head;
  return uniform(0, gain * std::sqrt(3.0 / (is_looked_up ? 1 : static_cast<double>(module.shape[1]))));
}

// `norm`: what a layer's norms have about as weight.
Fill fill_of(const PlainTensor& plain, double norm) {
  switch (plain.id.role) {
    case Role::kInputNorm:
    case Role::kFfnNorm:
    case Role::kQNorm:
    case Role::kKNorm:
    case Role::kQRankNorm:
    case Role::kKvRankNorm:
    case Role::kFinalNorm:
      return uniform(norm, 0.25);
    case Role::kOutNorm:
      return uniform(1, 0.25);
    case Role::kFilter:
      return uniform(0, std::sqrt(3.0 / static_cast<double>(plain.shape.back())));
    case Role::kDecayLog:  // states that last some tens of tokens
      return uniform(-0.5, 0.5);
    case Role::kStepBias:
      return uniform(-2, 1);
    case Role::kSinks:
      return uniform(0, 1);
    default:  // biases
      return uniform(0, 0.05);
  }
}

// Stacked experts in place of single ones.
void add_stacks(const LayerTable& table, std::vector<SynthTensor>& tensors) {
  const auto module_of = [&](Role role) -> const WeightModule& {
    return *std::ranges::find_if(table.modules, [&](const WeightModule& module) {
      return module.is_routed_expert() && module.id.role == role;
    });
  };
  const auto add = [&](const std::string& name, const WeightModule& module, uint64_t matrices) {
    const Shape shape = {table.experts, matrices * module.shape[0], module.shape[1]};
    tensors.push_back({stored_tensor(name, shape, Dtype::kBF16), fill_of(module, false)});
  };
  add(table.stacks.gate_up, module_of(Role::kUp), 2);
  add(table.stacks.down, module_of(Role::kDown), 1);
}

// BF16, but for the bias of the router's choices, which releases keep in F32.
std::vector<SynthTensor> synth(const Model& model, std::optional<uint64_t> layer) {
  const LayerTable& table = layer ? model.table.layers[*layer] : model.table.globals;
  std::vector<SynthTensor> tensors;
  const bool stacked = !table.stacks.down.empty();
  for (const WeightModule& module : table.modules) {
    if (stacked && module.is_routed_expert()) continue;
    tensors.push_back({stored_tensor(module.name + ".weight", module.shape, Dtype::kBF16),
                       fill_of(module, model.table.tied_head)});
  }
  if (stacked) add_stacks(table, tensors);
  const bool plus_one = std::get<DecoderSpec>(model.spec).norm.use == NormWeight::kPlusOne;
  for (const PlainTensor& plain : table.plain) {
    const Dtype dtype = plain.id.role == Role::kRouterBias ? Dtype::kF32 : Dtype::kBF16;
    tensors.push_back({stored_tensor(plain.name, plain.shape, dtype), fill_of(plain, plus_one ? 0 : 1),
                       plain.shape.size() == 1});
  }
  return tensors;
}

constexpr std::string_view kModelTypes[] = {
    "llama",         "mistral",     "qwen2",      "qwen3",        "qwen3_moe",        "mixtral",
    "glm4_moe",      "minimax_m2",  "hy_v3",      "deepseek_v3",  "kimi_k2",          "deepseek_v32",
    "glm4_moe_lite", "glm_moe_dsa", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5",
    "qwen3_5_moe",   "ministral3",  "mistral3",   "kimi_k25"};

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
    {"deepseek-v3", deepseek_v3_config},
    {"deepseek-v3.2", deepseek_v32_config},
    {"kimi-k2", kimi_k2_config},
    {"qwen3-next-80b-a3b", qwen3_next_80b_a3b_config},
    {"qwen3.5-27b", qwen3_5_27b_config},
    {"qwen3.5-35b-a3b", qwen3_5_35b_a3b_config},
    {"qwen3.5-397b-a17b", qwen3_5_397b_a17b_config},
    {"qwen3-tiny", qwen3_tiny_config},
    {"qwen3-moe-tiny", qwen3_moe_tiny_config},
    {"deepseek-v3-tiny", deepseek_v3_tiny_config},
    {"qwen3.5-tiny", qwen3_5_tiny_config},
    {"qwen3.5-moe-tiny", qwen3_5_moe_tiny_config},
};

}  // namespace

const Family kDecoderFamily = {
    .name = "decoder", .model_types = kModelTypes, .read = read, .presets = kPresets, .synth = synth};

}  // namespace nibblecast
