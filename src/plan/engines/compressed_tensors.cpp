#include "plan/engines/compressed_tensors.h"

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "plan/engines/breach_list.h"
#include "plan/engines/compressed_tensors_documents.h"
#include "plan/engines/modelopt_documents.h"
#include "plan/engines/tensor_rules.h"
#include "plan/engines/units.h"

namespace nibblecast {
namespace {

// The tensors that a module of each scheme has. vLLM and SGLang find no parameter for others (KeyError), and
// do not notice those of experts that are not there.
const std::map<std::string_view, std::vector<TensorRule>>& tensor_rules() {
  static const TensorRule kCodes = {"weight_packed", Needs::kPacked, {Dtype::kU8}};
  static const TensorRule kBlocks = {"weight_scale", Needs::kBlocks, {Dtype::kF8E4M3}};
  static const TensorRule kGlobal = {"weight_global_scale", Needs::kOne, {Dtype::kF32}};
  static const TensorRule kNoWeight = {"weight", Needs::kAbsent};
  static const TensorRule kNoCodes = {"weight_packed", Needs::kAbsent};
  static const TensorRule kNoInput = {"input_global_scale", Needs::kAbsent};
  static const std::map<std::string_view, std::vector<TensorRule>> kRules = {
      {"NVFP4", {kCodes, kBlocks, kGlobal, {"input_global_scale", Needs::kOne, {Dtype::kF32}}, kNoWeight}},
      {"NVFP4A16", {kCodes, kBlocks, kGlobal, kNoInput, kNoWeight}},
      {"FP8",
       {{"weight", Needs::kWhole, {Dtype::kF8E4M3}},
        {"weight_scale", Needs::kOne, {Dtype::kF32}},
        {"input_scale", Needs::kOne, {Dtype::kF32}},
        kNoCodes}},
      {kPlain,
       {{"weight", Needs::kWhole, {Dtype::kBF16, Dtype::kF16, Dtype::kF32}},
        {"weight_scale", Needs::kAbsent},
        {"weight_global_scale", Needs::kAbsent},
        kNoInput,
        kNoCodes}},
  };
  return kRules;
}

class Checker {
 public:
  Checker(const Model& model, std::span<const Tensor> tensors)
      : model_(model), tensors_(tensors, breaches_) {}

  std::vector<Breach> check(const Json& config, const Json& hf_quant_config) && {
    check_model_class(model_.model_type, config, breaches_);
    const Json quantization = at_or_null(config, "quantization_config");
    if (!quantization.is_object()) {
      breaches_.add(kAllEngines, "",
                    "config.json must have a quantization_config; found " + found_text(quantization));
      return std::move(breaches_).take();
    }
    check_compressed_tensors_keys(quantization, hf_quant_config, breaches_);
    Readings readings;
    for (const Engine engine : kAllEngines)
      readings.emplace_back(engine, CompressedTensorsReading(engine, model_.model_type, config));
    for (const EngineUnit& unit : engine_units(model_.table)) check_unit(unit, readings);
    return std::move(breaches_).take();
  }

 private:
  using Readings = std::vector<std::pair<Engine, CompressedTensorsReading>>;

  // Engines that build the unit by the same scheme are told the same.
  void check_unit(const EngineUnit& unit, const Readings& readings) {
    std::map<std::string, std::vector<Engine>> built;
    for (const auto& [engine, reading] : readings) {
      std::string conflict;
      const std::string scheme = reading.scheme_of(unit, conflict);
      const Engine alone[] = {engine};
      if (!conflict.empty())
        breaches_.add(alone, unit.prefix, conflict);
      else
        built[scheme].push_back(engine);
    }
    for (const auto& [scheme, engines] : built) {
      const auto rules = tensor_rules().find(scheme);
      if (rules == tensor_rules().end()) continue;  // of no scheme: said of its group
      if (unit.modules.empty() && scheme != kPlain)
        breaches_.add(engines, unit.prefix, "must be ignored: it is the embedding");
      for (const WeightModule* module : unit.modules) {
        for (const TensorRule& rule : rules->second) tensors_.check(*module, rule, engines);
      }
    }
  }

  const Model& model_;
  BreachList breaches_;
  TensorRules tensors_;
};

}  // namespace

std::vector<Breach> check_compressed_tensors_contracts(const Model& model, const Json& config,
                                                       const Json& hf_quant_config,
                                                       std::span<const Tensor> tensors) {
  return Checker(model, tensors).check(config, hf_quant_config);
}

}  // namespace nibblecast
