#include "plan/engines/modelopt.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include "plan/engines/breach_list.h"
#include "plan/engines/modelopt_documents.h"
#include "plan/engines/units.h"

namespace nibblecast {
namespace {

// What a tensor of a module must be.
enum class Needs : uint8_t {
  kAbsent,
  kWhole,   // [out, in]
  kPacked,  // [out, in / 2]
  kBlocks,  // [out, in / 16]
  kOne,     // one value
};

struct TensorRule {
  std::string_view kind;  // the name's end
  Needs needs;
  std::vector<Dtype> dtypes = {};
};

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
  Checker(const Model& model, std::span<const Tensor> tensors) : model_(model) {
    for (const Tensor& tensor : tensors) tensors_[tensor.name] = &tensor;
  }

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
      for (const TensorRule& rule : rules->second) check_tensor(*module, rule, engines);
    }
  }

  void check_tensor(const WeightModule& module, const TensorRule& rule, std::span<const Engine> engines) {
    const Tensor* tensor = find(fmt::format("{}.{}", module.name, rule.kind));
    const bool wanted = rule.needs != Needs::kAbsent;
    if ((tensor != nullptr) != wanted) {
      breaches_.add(engines, module.name,
                    fmt::format("{} must be {}", rule.kind, wanted ? "present" : "absent"));
      return;
    }
    if (!wanted) return;
    if (std::ranges::find(rule.dtypes, tensor->dtype) == rule.dtypes.end()) {
      breaches_.add(engines, module.name,
                    fmt::format("{} must be {}; found {}", rule.kind, dtype_name(rule.dtypes.front()),
                                dtype_name(tensor->dtype)));
    }
    if (!fits(*tensor, module.shape, rule.needs)) {
      breaches_.add(engines, module.name,
                    fmt::format("{} has the shape {}, of a linear {}", rule.kind, shape_text(tensor->shape),
                                shape_text(module.shape)));
    }
  }

  static bool fits(const Tensor& tensor, const Shape& linear, Needs needs) {
    switch (needs) {
      case Needs::kAbsent:
        return true;
      case Needs::kWhole:
        return tensor.shape == linear;
      case Needs::kPacked:
        return linear[1] % 2 == 0 && tensor.shape == Shape{linear[0], linear[1] / 2};
      case Needs::kBlocks:
        return linear[1] % 16 == 0 && tensor.shape == Shape{linear[0], linear[1] / 16};
      case Needs::kOne:
        return element_count(tensor.shape) == 1;
    }
    return false;
  }

  // Measured scales of an FP8 cache are optional; engines take 1 where there are none.
  void check_cache_scales() {
    for (const LayerTable& layer : model_.table.layers) {
      for (const WeightModule& module : layer.modules) {
        const bool is_key = module.id.role == Role::kK;
        if (!is_key && module.id.role != Role::kV) continue;
        const TensorRule rule = {is_key ? "k_scale" : "v_scale", Needs::kOne, {Dtype::kF32}};
        if (find(fmt::format("{}.{}", module.name, rule.kind)) != nullptr)
          check_tensor(module, rule, kAllEngines);
      }
    }
  }

  const Tensor* find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : found->second;
  }

  const Model& model_;
  std::unordered_map<std::string_view, const Tensor*> tensors_;
  BreachList breaches_;
};

}  // namespace

std::vector<Breach> check_modelopt_contracts(const Model& model, const Json& config,
                                             const Json& hf_quant_config, std::span<const Tensor> tensors) {
  return Checker(model, tensors).check(config, hf_quant_config);
}

}  // namespace nibblecast
