// plan/engines/compressed_tensors.h - what vLLM 0.33.0, SGLang 0.5.23 and TensorRT-LLM (single files of 2026)
// require of a checkpoint in compressed-tensors' form (plan/dialects/compressed_tensors.h), as rules that are
// checked on a plan and again on an output. docs/engines.md gives each rule's source. Data is not looked at.
#pragma once

#include <span>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor.h"
#include "model/model.h"
#include "plan/engines.h"

namespace nibblecast {

// `config` of any content; `hf_quant_config` null where absent, as it should be; `tensors` with name, dtype
// and shape. Of patterns ("re:...") those of names, `\.`, `.`, `.*`, `^` and `$` are understood; others match
// nothing here. Breaches come in a fixed order, one a rule and engine.
std::vector<Breach> check_compressed_tensors_contracts(const Model& model, const Json& config,
                                                       const Json& hf_quant_config,
                                                       std::span<const Tensor> tensors);

}  // namespace nibblecast
