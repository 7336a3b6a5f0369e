// model/deepseek_v4_modules.h - the modules of DeepSeek-V4 that have a weight matrix, under both names, and
// which of them share scales.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

enum class ModuleKind {
  kLinear,         // attention's products but wo_a, compressors, indexers, experts: what ModelOpt quantizes
  kGroupedLinear,  // attn.wo_a: each of o_groups blocks of rows has its own input
  kRouter,         // ffn.gate
  kHead,
  kEmbedding,
};

struct WeightModule {
  std::string name = {};      // official: "layers.3.attn.indexer.wq_b"
  std::string hub_name = {};  // "model.layers.3.self_attn.compressor.indexer.q_b_proj"; an expert each
  ModuleKind kind = ModuleKind::kLinear;
  Storage storage = Storage::kBF16;  // in the release
  Shape shape = {};                  // [out, in]
};

// In a fixed order: that of layer_tensors(); the draft layers are none of them.
std::vector<WeightModule> layer_modules(const DeepseekV4Config& config, uint64_t layer);
// embed and head.
std::vector<WeightModule> global_modules(const DeepseekV4Config& config);

// transformers' name (5.17) of a module of the table above, by its official name; empty for any other text.
std::string hub_module_name(std::string_view official_name);

// Where a tensor of the table stands in the state of transformers' model (5.17). Routed experts are stacked
// there: all w1 and w3 of a layer are one tensor, all w2 another.
struct HubTensor {
  std::string name = {};            // "model.layers.3.mlp.experts.gate_up_proj"
  uint64_t part = 0, parts = 1;     // of as many equal ones, in order, without gaps
  std::optional<Shape> whole = {};  // of a stacked tensor
};
// By its official name; nothing for any other text, and for the draft layers, which that model lacks.
std::optional<HubTensor> hub_tensor(const DeepseekV4Config& config, std::string_view official_name);

}  // namespace nibblecast
