// plan/engines/tensor_rules.h - what the tensors of a linear must be, as rows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/tensor.h"
#include "model/model_table.h"
#include "plan/engines/breach_list.h"

namespace nibblecast {

enum class Needs : uint8_t {
  kAbsent,
  kWhole,   // [out, in]
  kPacked,  // [out, in / 2]
  kBlocks,  // [out, in / 16]
  kOne,     // one value
};

struct TensorRule {
  std::string_view kind;  // the name's end, after the module's and a dot
  Needs needs;
  std::vector<Dtype> dtypes = {};
};

// Holds rules against tensors, which outlive it.
class TensorRules {
 public:
  TensorRules(std::span<const Tensor> tensors, BreachList& breaches);
  const Tensor* find(const std::string& name) const;  // null where absent
  void check(const WeightModule& module, const TensorRule& rule, std::span<const Engine> engines);

 private:
  std::unordered_map<std::string_view, const Tensor*> tensors_;
  BreachList& breaches_;
};

}  // namespace nibblecast
