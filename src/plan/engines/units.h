// plan/engines/units.h - what engines build as one layer of their own: q, k and v as qkv_proj, gate and up as
// gate_up_proj, q_a and kv_a as fused_qkv_a_proj (vLLM 0.33, deepseek_v2.py), the routed experts of a layer
// as experts; every other module by itself. The parts of one have one format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_table.h"

namespace nibblecast {

struct EngineUnit {
  enum class Kind : uint8_t { kSingle, kFused, kExperts };
  Kind kind = Kind::kSingle;
  std::string prefix = {};                        // "model.layers.3.self_attn.qkv_proj"
  std::vector<const WeightModule*> modules = {};  // of the table; none: a tied head
};

// Ascending by layer, in the order of the table, which outlives them. The embedding is none: engines never
// build it quantized.
std::vector<EngineUnit> engine_units(const ModelTable& table);

}  // namespace nibblecast
