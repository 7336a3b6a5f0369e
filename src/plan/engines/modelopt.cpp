#include "plan/engines/modelopt.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>

#include "plan/engines/breach_list.h"
#include "plan/engines/modelopt_documents.h"
#include "plan/engines/tensor_rules.h"
#include "plan/engines/units.h"

namespace nibblecast {
namespace {

// The tensors that a module of each algorithm has.
const std::map<std::string_view, std::vector<TensorRule>>& tensor_rules() {
  static const TensorRule kCodes = {"weight", Needs::kPacked, {Dtype::kU8}};
  static const TensorRule kBlockScale = {"weight_scale", Needs::kBlocks, {Dtype::kF8E4M3}};
  static const TensorRule kScale2 = {"weight_scale_2", Needs::kOne, {Dtype::kF32}};
  static const TensorRule kInput = {"input_scale", Needs::kOne, {Dtype::kF32}};
  static const std::map<std::string_view, std::vector<TensorRule>> kRules = {
      {"NVFP4", {kCodes, kBlockScale, kScale2, kInput}},
      {"W4A16_NVFP4", {kCodes, kBlockScale, kScale2}},  // an input_scale is dropped
      {"FP8",
       {{"weight", Needs::kWhole, {Dtype::kF8E4M3}},
        {"weight_scale", Needs::kOne, {Dtype::kF32}},
        {"weight_scale_2", Needs::kAbsent},
        kInput}},
      {kPlain,
       {{"weight", Needs::kWhole, {Dtype::kBF16, Dtype::kF16, Dtype::kF32}},
        {"weight_scale", Needs::kAbsent},
        {"weight_scale_2", Needs::kAbsent},
        {"input_scale", Needs::kAbsent}}},
  };
  return kRules;
}

// How the weight of a module lies there, in the words of the algorithms.
std::string_view stored_as(const Tensor& weight) {
  switch (weight.dtype) {
    case Dtype::kU8:
      return "NVFP4";
    case Dtype::kF8E4M3:
      return "FP8";
    case Dtype::kBF16:
    case Dtype::kF16:
    case Dtype::kF32:
      return kPlain;
    default:
      return dtype_name(weight.dtype);
  }
}

bool is_stored_so(const Tensor& weight, std::string_view algorithm) {
  return algorithm.ends_with(stored_as(weight));  // W4A16_NVFP4 lies there as NVFP4 does
}

class Checker {
 public:
  Checker(const Model& model, std::span<const Tensor> tensors)
      : model_(model), tensors_(tensors, breaches_) {}

  std::vector<Breach> check(const Json& config, const Json& hf_quant_config) && {
    check_modelopt_documents(model_.model_type, config, hf_quant_config, breaches_);
    std::vector<std::pair<Engine, ModelOptReading>> readings;
    for (const Engine engine : kAllEngines)
      readings.emplace_back(engine, ModelOptReading(engine, model_.model_type, config, hf_quant_config));
    for (const EngineUnit& unit : engine_units(model_.table)) check_unit(unit, readings);
    check_cache_scales();
    return std::move(breaches_).take();
  }

 private:
  using Readings = std::span<const std::pair<Engine, ModelOptReading>>;

  // Engines that build the unit by the same algorithm are told the same.
  void check_unit(const EngineUnit& unit, Readings readings) {
    std::map<std::string, std::vector<Engine>> built;
    for (const auto& [engine, reading] : readings) {
      std::string conflict;
      const std::string algorithm = reading.algorithm_of(unit, conflict);
      const Engine alone[] = {engine};
      if (!conflict.empty()) breaches_.add(alone, unit.prefix, conflict);
      if (conflict.empty()) built[algorithm].push_back(engine);
      if (engine == Engine::kTrtllm && algorithm != kPlain) check_packed(unit);
    }
    for (const auto& [algorithm, engines] : built) check_as(unit, algorithm, engines);
  }

  // TensorRT-LLM's mapper interleaves the rows of both products whatever the tensor, and scales of one value
  // have none. (tensorrt_llm/_torch/models/checkpoints/hf/qwen3_5_weight_mapper.py)
  void check_packed(const EngineUnit& unit) {
    if (unit.modules.empty() || unit.modules.front()->id.role != Role::kDeltaQkv) return;
    constexpr Engine kReader[] = {Engine::kTrtllm};
    breaches_.add(kReader, unit.prefix,
                  "must be excluded: in_proj_qkv and in_proj_z are packed by rows, without scales");
  }

  // Of a unit that engines build by `algorithm`.
  void check_as(const EngineUnit& unit, const std::string& algorithm, std::span<const Engine> engines) {
    const auto rules = tensor_rules().find(algorithm);
    if (rules == tensor_rules().end()) return;  // the documents name no algorithm of ModelOpt's
    if (unit.modules.empty() && algorithm != kPlain)
      breaches_.add(engines, unit.prefix, "must be excluded: it is the embedding");
    const auto other = std::ranges::find_if(unit.modules, [&](const WeightModule* module) {
      const Tensor* weight = find(module->name + ".weight");
      return weight != nullptr && !is_stored_so(*weight, algorithm);
    });
    if (other != unit.modules.end()) {
      breaches_.add(engines, unit.prefix,
                    fmt::format("is built as {}, by what the documents say; stored is {}", algorithm,
                                stored_as(*find((*other)->name + ".weight"))));
      return;
    }
    for (const WeightModule* module : unit.modules) {
      for (const TensorRule& rule : rules->second) tensors_.check(*module, rule, engines);
    }
  }

  // Measured scales of an FP8 cache are optional; engines take 1 where there are none.
  void check_cache_scales() {
    for (const LayerTable& layer : model_.table.layers) {
      for (const WeightModule& module : layer.modules) {
        const bool is_key = module.id.role == Role::kK;
        if (!is_key && module.id.role != Role::kV) continue;
        const TensorRule rule = {is_key ? "k_scale" : "v_scale", Needs::kOne, {Dtype::kF32}};
        if (find(fmt::format("{}.{}", module.name, rule.kind)) != nullptr)
          tensors_.check(module, rule, kAllEngines);
      }
    }
  }

  const Tensor* find(const std::string& name) const { return tensors_.find(name); }

  const Model& model_;
  BreachList breaches_;
  TensorRules tensors_;
};

}  // namespace

std::vector<Breach> check_modelopt_contracts(const Model& model, const Json& config,
                                             const Json& hf_quant_config, std::span<const Tensor> tensors) {
  return Checker(model, tensors).check(config, hf_quant_config);
}

}  // namespace nibblecast
