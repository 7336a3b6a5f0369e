// model/deepseek_v4_modules.h - transformers' names of DeepSeek-V4's modules and tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

// transformers' name (5.17) of a module with a weight matrix, by its official name; empty for any other text.
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
