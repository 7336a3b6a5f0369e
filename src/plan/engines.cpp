#include "plan/engines.h"

#include <utility>

#include "plan/engines/compressed_tensors.h"
#include "plan/engines/deepseek_v4_rules.h"
#include "plan/engines/modelopt.h"

namespace nibblecast {

std::string_view engine_release(Engine engine) {
  switch (engine) {
    case Engine::kVllm:
      return "vLLM 0.33.0";
    case Engine::kSglang:
      return "SGLang 0.5.23";
    case Engine::kTrtllm:
      return "TensorRT-LLM main of November 2026";
  }
  return "?";
}

std::vector<Breach> check_engine_contracts(const Json& config, const Json& hf_quant_config,
                                           std::span<const Tensor> tensors) {
  V4Tensors found(tensors);
  const V4Documents documents{
      .config = config,
      .hf_quant_config = hf_quant_config,
      .quantization_config = at_or_null(config, "quantization_config"),
      .has_nvfp4 =
          found.formats.empty() || found.has_any({ExpertsFormat::kNvfp4, ExpertsFormat::kWeightOnly})};
  V4Breaches breaches;
  breaches.add(check_formats(tensors, found.formats));
  check_v4_model(documents, breaches);
  check_v4_quantization(documents, found, breaches);
  check_v4_experts(config, std::move(found), breaches);
  return std::move(breaches).take();
}

std::vector<Breach> check_contracts(const Model& model, OutputFormat format, const Json& config,
                                    const Json& hf_quant_config, std::span<const Tensor> tensors) {
  switch (format) {
    case OutputFormat::kAuto:
    case OutputFormat::kModelOptV4:
      return check_engine_contracts(config, hf_quant_config, tensors);
    case OutputFormat::kModelOpt:
      return check_modelopt_contracts(model, config, hf_quant_config, tensors);
    case OutputFormat::kCompressedTensors:
      return check_compressed_tensors_contracts(model, config, hf_quant_config, tensors);
  }
  return {};
}

}  // namespace nibblecast
