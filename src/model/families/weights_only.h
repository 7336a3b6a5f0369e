// model/families/weights_only.h - families whose tables are known and whose forward pass is not built:
// gpt-oss, Gemma-3 and 4, Nemotron-3, GLM-5.3-Flash, MiniMax-M3, Llama-4, Kimi-Linear and K3. Their weights
// can be quantized with all that needs no activations, or activations that others measured.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/families/line_table.h"
#include "model/model.h"

namespace nibblecast {

// What a model consists of, by its config.
struct WeightsOnlyRow {
  std::string_view model_type = {};
  // What a forward pass would need that there is none of, in words.
  std::string_view lacks = {};
  // The sections of config.json, one within the other, that speak of the text model; and its model_type
  // there.
  std::string_view section = {}, section_type = {};
  std::string_view prefix = "model.";                                 // of the text model's tensors
  std::string_view embedding = "embed_tokens", norm = "norm.weight";  // after the prefix
  std::string_view head = "lm_head";                                  // full
  std::vector<std::string_view> other_parts = {};                     // what other tensors' names begin with
  bool tied = false;                 // where config.json does not say tie_word_embeddings
  bool plus_one = false;             // norms are stored less one
  std::string_view drafts_key = {};  // of how many layers for drafts follow the others
  // Sizes of all layers, by their names in the lines; "layers" where num_hidden_layers does not say it.
  Sizes (*sizes)(const ConfigReader& config) = nullptr;
  // Of layer `layer`: its blocks, and in `sizes` what is its own.
  std::vector<std::span<const TableLine>> (*layer)(const ConfigReader& config, uint64_t layer,
                                                   Sizes& sizes) = nullptr;
  // What else stands outside of layers; null: nothing.
  std::span<const TableLine> (*globals)(const ConfigReader& config) = nullptr;
};

const std::vector<WeightsOnlyRow>& weights_only_rows();

}  // namespace nibblecast
