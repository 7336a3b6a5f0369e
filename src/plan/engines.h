// plan/engines.h - what the serving engines' loaders require of a DeepSeek-V4 NVFP4 checkpoint, as rules that
// are checked on a plan and again on an output. Sources: vLLM 0.33.0, SGLang 0.5.23, TensorRT-LLM main of
// November 2026; docs/engines.md gives file and line of each rule.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor.h"
#include "plan/options.h"

namespace nibblecast {

struct Breach {
  Engine engine;
  std::string rule;  // "quantization_config.moe_quant_algo must be \"NVFP4\"; found null"
};

// `config` and `hf_quant_config` of the checkpoint (the latter null where absent), of any content; `tensors`
// with name, dtype and shape. Data is not looked at. Breaches come in a fixed order; one a rule, engine and
// module.
std::vector<Breach> check_engine_contracts(const Json& config, const Json& hf_quant_config,
                                           std::span<const Tensor> tensors);

}  // namespace nibblecast
