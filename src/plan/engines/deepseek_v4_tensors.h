// plan/engines/deepseek_v4_tensors.h - an output in DeepSeek-V4's own form as its engines find it: tensors by
// what their names say.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor.h"
#include "plan/engines/deepseek_v4_formats.h"

namespace nibblecast {

// The tensors of one projection of a routed expert.
struct ExpertParts {
  const Tensor* weight = nullptr;
  const Tensor* weight_scale = nullptr;
  const Tensor* weight_scale_2 = nullptr;
  const Tensor* input_scale = nullptr;
  std::vector<const Tensor*> others;
};

// How the experts of a draft layer are stored; neither: FP8, or whatever else.
struct DraftExperts {
  bool is_nvfp4 = false, is_mxfp4 = true;
};

struct V4Tensors {
  explicit V4Tensors(std::span<const Tensor> tensors);  // which outlive this

  bool has_format(uint64_t layer, ExpertsFormat format) const;
  bool has_any(std::initializer_list<ExpertsFormat> wanted) const;

  std::map<uint64_t, ExpertsFormat> formats;      // of main layers
  std::map<std::string, ExpertParts> experts;     // by module
  std::map<uint64_t, std::set<uint64_t>> layers;  // experts found in each main layer
  std::map<std::string, DraftExperts> drafts;     // by "mtp.0.ffn.experts"
  std::set<std::string> fp8_modules, plain_modules;

 private:
  void add(const Tensor& tensor);
  bool add_draft(const Tensor& tensor, const std::string& module, const std::string& kind);
};

}  // namespace nibblecast
