#include "model/weights_only_family.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "model/families/weights_only.h"

namespace nibblecast {
namespace {

const WeightsOnlyRow& row_of(std::string_view model_type) {
  return *std::ranges::find(weights_only_rows(), model_type, &WeightsOnlyRow::model_type);
}

// What speaks of the text model.
ConfigReader text_of(const ConfigReader& config, const WeightsOnlyRow& row) {
  if (row.section.empty()) return config;
  const std::string key(row.section);
  const std::optional<ConfigReader> section = config.maybe_section(key);
  if (!section) config.refuse_missing(key);
  section->only("model_type", std::string(row.section_type));
  return *section;
}

// Where both say it they agree.
bool is_tied(const ConfigReader& config, const ConfigReader& text, bool otherwise) {
  const char* key = "tie_word_embeddings";
  const std::optional<bool> outer = config.maybe_flag(key), inner = text.maybe_flag(key);
  if (outer && inner && *outer != *inner)
    config.refuse_contradiction(key, *outer ? "true" : "false", key, *inner ? "true" : "false");
  return outer ? *outer : inner.value_or(otherwise);
}

void add_globals(const ConfigReader& config, const WeightsOnlyRow& row, const Sizes& sizes, bool tied,
                 ModelTable& table) {
  const TableLine lines[] = {
      {Line::kLinear, row.embedding, "vocab, hidden", Role::kEmbedding},
      {Line::kVector, row.norm, "hidden", Role::kFinalNorm},
  };
  const TableLine head[] = {{Line::kLinear, row.head, "vocab, hidden", Role::kHead}};
  const std::string prefix(row.prefix);
  const LineTables tables(row.plus_one);
  tables.add(lines, sizes, prefix, -1, table.globals);
  if (row.globals != nullptr) tables.add(row.globals(config), sizes, prefix, -1, table.globals);
  if (!tied) tables.add(head, sizes, "", -1, table.globals);
  table.tied_head = tied;
}

void add_layers(const ConfigReader& config, const WeightsOnlyRow& row, const Sizes& sizes,
                ModelTable& table) {
  const auto counted = sizes.find("layers");
  const uint64_t layers =
      counted != sizes.end() ? counted->second : config.integer("num_hidden_layers", 1, kMaxLayers);
  const auto experts = sizes.find("experts");
  if (experts != sizes.end())
    config.require_most("num_hidden_layers * experts", layers * experts->second, "", kMaxExperts);
  const LineTables tables(row.plus_one);
  for (uint64_t layer = 0; layer < layers; ++layer) {
    LayerTable& made = table.layers.emplace_back();
    Sizes own = sizes;
    const auto blocks = row.layer(config, layer, own);
    const std::string prefix = std::string(row.prefix) + "layers." + std::to_string(layer) + ".";
    for (const std::span<const TableLine> block : blocks) {
      tables.add(block, own, prefix, static_cast<int32_t>(layer), made);
      for (const TableLine& line : block)
        if (line.line == Line::kUnused) table.passed_through.push_back(prefix + std::string(line.name));
    }
    // Routed experts stand last.
    std::stable_partition(made.modules.begin(), made.modules.end(),
                          [](const auto& module) { return !module.is_routed_expert(); });
  }
}

void pass_others(const ConfigReader& config, const WeightsOnlyRow& row, ModelTable& table) {
  for (const std::string_view part : row.other_parts) table.passed_through.emplace_back(part);
  if (table.tied_head) table.passed_through.push_back(std::string(row.head) + ".weight");
  if (row.drafts_key.empty()) return;
  const uint64_t drafts = config.maybe_integer(std::string(row.drafts_key), 0, kMaxLayers).value_or(0);
  for (uint64_t draft = 0; draft < drafts; ++draft) {
    table.passed_through.push_back(std::string(row.prefix) + "layers." +
                                   std::to_string(table.layers.size() + draft) + ".");
    table.declared_drafts.push_back(table.passed_through.back());
  }
}

Model read(const Json& json, const std::string& file) {
  const ConfigReader whole(json, file);
  const WeightsOnlyRow& row = row_of(whole.maybe_string("model_type").value_or(""));
  const ConfigReader config = text_of(whole, row);
  Model model{.family = std::string(row.model_type), .model_type = std::string(row.model_type)};
  const Sizes sizes = row.sizes(config);
  add_globals(config, row, sizes, is_tied(whole, config, row.tied), model.table);
  add_layers(config, row, sizes, model.table);
  pass_others(config, row, model.table);
  const uint64_t vocab = sizes.at("vocab");
  model.vocabulary = {.size = vocab,
                      .bos_token_id = config.token_id("bos_token_id", vocab),
                      .eos_token_id = config.token_id("eos_token_id", vocab),
                      .max_position_embeddings =
                          config.maybe_integer("max_position_embeddings", 1, kMaxPositions).value_or(0)};
  model.tiles = tile_size(json, file);
  model.spec = NoForwardPass{.lacks = std::string(row.lacks), .hidden = sizes.at("hidden")};
  return model;
}

Tensor stored_tensor(const std::string& name, const Shape& shape) {
  const uint64_t bytes = element_count(shape).value_or(0) * dtype_bytes(Dtype::kBF16);
  return {.name = name, .dtype = Dtype::kBF16, .shape = shape, .size_bytes = bytes};
}

// BF16, each weight of its fan-in; experts one by one.
std::vector<SynthTensor> synth(const Model& model, std::optional<uint64_t> layer) {
  const LayerTable& table = layer ? model.table.layers[*layer] : model.table.globals;
  std::vector<SynthTensor> tensors;
  for (const WeightModule& module : table.modules) {
    const double width = std::sqrt(3.0 / static_cast<double>(module.shape[1]));
    tensors.push_back({stored_tensor(module.name + ".weight", module.shape), {.half_width = width}});
  }
  for (const PlainTensor& plain : table.plain)
    tensors.push_back({stored_tensor(plain.name, plain.shape),
                       {.center = plain.shape.size() == 1 ? 1.0 : 0.0, .half_width = 0.25},
                       plain.shape.size() == 1});
  return tensors;
}

constexpr std::string_view kModelTypes[] = {
    "gpt_oss",   "gemma3_text",        "gemma3",       "gemma4_text",
    "gemma4",    "gemma4_unified",     "nemotron_h",   "kimi_k3",
    "llama4",    "llama4_text",        "kimi_linear",  "glm5_next_text",
    "glm5_next", "minimax_m3_vl_text", "minimax_m3_vl"};

}  // namespace

const Family kWeightsOnlyFamily = {
    .name = "weights_only", .model_types = kModelTypes, .read = read, .presets = {}, .synth = synth};

}  // namespace nibblecast
