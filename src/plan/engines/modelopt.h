// plan/engines/modelopt.h - what vLLM 0.33.0, SGLang 0.5.23 and TensorRT-LLM (main of November 2026) require
// of a checkpoint in ModelOpt's unified form (plan/dialects/modelopt.h), as rules that are checked on a plan
// and again on an output. docs/engines.md gives each rule's source. Data is not looked at.
#pragma once

#include <span>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor.h"
#include "model/model.h"
#include "plan/engines.h"

namespace nibblecast {

// `config` and `hf_quant_config` of the checkpoint (the latter null where absent), of any content; `tensors`
// with name, dtype and shape. Breaches come in a fixed order, one a rule and engine.
std::vector<Breach> check_modelopt_contracts(const Model& model, const Json& config,
                                             const Json& hf_quant_config, std::span<const Tensor> tensors);

}  // namespace nibblecast
