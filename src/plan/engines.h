// plan/engines.h - what the serving engines' loaders require of a DeepSeek-V4 NVFP4 checkpoint, as rules that
// are checked on a plan and again on an output. Sources: vLLM 0.33.0, SGLang 0.5.23, TensorRT-LLM main of
// November 2026; docs/engines.md gives file and line of each rule.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor.h"
#include "model/model.h"
#include "plan/options.h"

namespace nibblecast {

// The version whose loader the rules are of: "vLLM 0.33.0".
std::string_view engine_release(Engine engine);

struct Breach {
  Engine engine;
  std::string rule;         // "quantization_config.moe_quant_algo must be \"NVFP4\"; found null"
  std::string remedy = {};  // what would mend it, in words; empty where nothing is known
};

// `config` and `hf_quant_config` of the checkpoint (the latter null where absent), of any content; `tensors`
// with name, dtype and shape. Data is not looked at. Breaches come in a fixed order; one a rule, engine and
// module, but modules in a format that an engine has no loader for are one breach together.
std::vector<Breach> check_engine_contracts(const Json& config, const Json& hf_quant_config,
                                           std::span<const Tensor> tensors);

// The same by the rules of a dialect: DeepSeek-V4's, plan/engines/modelopt.h or
// plan/engines/compressed_tensors.h. `format` is none but kAuto.
std::vector<Breach> check_contracts(const Model& model, OutputFormat format, const Json& config,
                                    const Json& hf_quant_config, std::span<const Tensor> tensors);

struct Plan;
// Of the output that the plan makes.
std::vector<Breach> breaches_of(const Plan& plan);

}  // namespace nibblecast
