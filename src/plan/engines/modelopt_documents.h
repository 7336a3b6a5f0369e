// plan/engines/modelopt_documents.h - the JSON documents of ModelOpt's form as engines read them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "plan/engines/breach_list.h"
#include "plan/engines/exclusion.h"
#include "plan/engines/units.h"

namespace nibblecast {

inline constexpr std::string_view kPlain = "BF16";  // what an engine builds unquantized

// What one engine understands of them.
class ModelOptReading {
 public:
  // vLLM and SGLang read `quantization_config` of the config, TensorRT-LLM `quantization` of hf_quant_config
  // where there is that file. `model_type` decides what an engine calls its layers.
  ModelOptReading(Engine engine, std::string model_type, const Json& config, const Json& hf_quant_config);

  // The algorithm by which the engine builds the unit ("NVFP4"), or kPlain; a sentence in `conflict` where
  // the engine refuses the checkpoint instead.
  std::string algorithm_of(const EngineUnit& unit, std::string& conflict) const;

 private:
  std::string prefix_of(const EngineUnit& unit) const;
  bool is_never_quantized(const EngineUnit& unit) const;
  std::string listed_algorithm(const EngineUnit& unit, const std::string& prefix,
                               std::string& conflict) const;

  Engine engine_;
  std::string model_type_;
  std::string algorithm_;  // of everything that is not excluded; empty: `layers_` say it
  std::map<std::string, std::string> layers_;
  std::vector<std::string> excluded_;
};

// Which engines have a model class for the family, and that the config names it; of every dialect.
void check_model_class(const std::string& model_type, const Json& config, BreachList& breaches);

// Rules of the documents' keys, and that both say the same.
void check_modelopt_documents(const std::string& model_type, const Json& config, const Json& hf_quant_config,
                              BreachList& breaches);

}  // namespace nibblecast
