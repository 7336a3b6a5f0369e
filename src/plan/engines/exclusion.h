// plan/engines/exclusion.h - what each engine takes a ModelOpt list of excluded modules for.
//
//   vLLM      names by themselves, parts of names, and Python's fnmatch; a fused layer by its parts' names
//             (model_executor/layers/quantization/modelopt.py:is_layer_excluded, utils/quant_utils.py:
//             is_layer_skipped)
//   SGLang    linears by whole steps of their path, everything by `*`; experts by `*` or their whole name
//   only
//             (srt/layers/quantization/modelopt_quant.py:is_layer_excluded, utils.py:is_layer_skipped)
//   TensorRT-LLM  fnmatch, a fused layer also by any part's name
//             (models/modeling_utils.py:is_module_excluded_from_quantization)
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "plan/engines/units.h"
#include "plan/options.h"

namespace nibblecast {

enum class Exclusion : uint8_t {
  kNone,
  kAll,
  kParts,  // some of a fused layer's: the engine refuses the checkpoint
};

// `prefix` is what the engine calls the unit, where that is not the unit's own.
Exclusion exclusion_of(Engine engine, const EngineUnit& unit, const std::string& prefix,
                       std::span<const std::string> patterns);

}  // namespace nibblecast
