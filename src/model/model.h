// model/model.h - a model as a value: what it consists of and how it computes. A family (model/family.h)
// makes it from a config.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "model/decoder_spec.h"
#include "model/families/deepseek_v4/config.h"
#include "model/model_table.h"
#include "weights/container.h"

namespace nibblecast {

// What rows of tokens must know.
struct Vocabulary {
  uint64_t size = 0;
  int64_t bos_token_id = -1, eos_token_id = -1;  // -1: not given
  uint64_t max_position_embeddings = 0;          // 0: not given
};

// Of a family whose table is known, and not how it computes: what needs no forward pass can be done with it.
struct NoForwardPass {
  std::string lacks = {};  // what its forward pass would need, in words
  uint64_t hidden = 0;
  bool operator==(const NoForwardPass&) const = default;
};

struct Model {
  std::string family = {};      // "deepseek_v4", "decoder families by their model_type": "qwen3_moe"
  std::string model_type = {};  // as config.json has it
  ModelTable table = {};
  Vocabulary vocabulary = {};
  TileSize tiles = {};  // of FP8 weights, as the config says
  std::variant<DeepseekV4Config, DecoderSpec, NoForwardPass> spec = {};

  uint64_t layers() const { return table.layers.size(); }
  bool has_forward_pass() const { return !std::holds_alternative<NoForwardPass>(spec); }
  // Elements of a token between two layers: what a forward pass carries from one to the next.
  uint64_t carried_width() const;
};

// Arithmetic of the forward pass, in floating-point operations of one token: products with a layer's weights.
struct LayerFlops {
  double attention = 0;  // and everything else that is no MLP
  double routed = 0;     // the experts that a token goes through; a dense layer's MLP
  double shared = 0;
  double sum() const { return attention + routed + shared; }
};
LayerFlops layer_flops(const Model& model, uint64_t layer);
// Products with the head's weights, and what comes before it.
double head_flops(const Model& model);
// Queries against keys and values, on average over the tokens of a row of `length`.
double score_flops(const Model& model, uint64_t layer, uint64_t length);

}  // namespace nibblecast
