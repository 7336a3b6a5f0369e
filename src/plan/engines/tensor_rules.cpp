#include "plan/engines/tensor_rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibblecast {
namespace {

bool fits(const Tensor& tensor, const Shape& linear, Needs needs) {
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

}  // namespace

TensorRules::TensorRules(std::span<const Tensor> tensors, BreachList& breaches) : breaches_(breaches) {
  for (const Tensor& tensor : tensors) tensors_[tensor.name] = &tensor;
}

const Tensor* TensorRules::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

void TensorRules::check(const WeightModule& module, const TensorRule& rule, std::span<const Engine> engines) {
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

}  // namespace nibblecast
