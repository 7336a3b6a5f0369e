// The rules of DeepSeek-V4's routed experts.
#include <fmt/format.h>

#include "checkpoint/printable.h"
#include "model/deepseek_v4_names.h"
#include "plan/engines/breach_list.h"
#include "plan/engines/deepseek_v4_rules.h"

namespace nibblecast {
namespace {

using enum Engine;

// vLLM and SGLang do not notice an expert that is not there: its parameters stay as they were allocated.
void check_counts(const Json& config, V4Tensors& tensors, V4Breaches& breaches) {
  const Json layers = at_or_null(config, "num_hidden_layers");
  const Json release = at_or_null(config, "n_routed_experts"),
             transformers = at_or_null(config, "num_local_experts");
  const Json& experts = transformers.is_null() ? release : transformers;
  if (layers != tensors.layers.size()) {
    breaches.add({kVllm, kSglang, kTrtllm},
                 fmt::format("num_hidden_layers must be the number of layers with experts, {}; found {}",
                             tensors.layers.size(), found_text(layers)));
  }
  for (const auto& [layer, found] : tensors.layers) {
    if (experts == found.size()) continue;
    breaches.add({kVllm, kSglang, kTrtllm},
                 fmt::format("layers.{}.ffn.experts must hold the config's {} experts; found {}", layer,
                             found_text(experts), found.size()));
  }
  for (const auto& [layer, found] : tensors.layers) {
    for (const uint64_t expert : found) {
      for (int projection = 1; projection <= 3; ++projection)
        tensors.experts[expert_module(layer, expert, projection)];
    }
  }
}

// One projection of an expert, NVFP4.
class ExpertRules {
 public:
  explicit ExpertRules(V4Breaches& breaches) : breaches_(breaches) {}

  void check(const std::string& module, const ExpertParts& parts) {
    // The storage is decisive to TensorRT-LLM alone: it takes I8 for MXFP4.
    if (present(module, "weight", parts.weight)) {
      const Dtype dtype = parts.weight->dtype;
      if (dtype == Dtype::kI8)
        breaches_.add({kTrtllm}, fmt::format("{}.weight must be U8; found I8", module));
      else
        check_dtype(*parts.weight, Dtype::kU8);
    }
    if (present(module, "weight_scale", parts.weight_scale)) {
      check_dtype(*parts.weight_scale, Dtype::kF8E4M3);
      if (parts.weight != nullptr) check_scale_shape(module, parts);
    }
    check_scalar(module, "weight_scale_2", parts.weight_scale_2);
    check_scalar(module, "input_scale", parts.input_scale);
    for (const Tensor* other : parts.others) {
      const bool is_scale = other->name.ends_with(".scale");
      breaches_.add({kVllm},
                    fmt::format("{} must be absent: {}", printable(other->name),
                                is_scale ? "it overwrites half of weight_scale" : "no such parameter"));
      if (is_scale)
        breaches_.add({kTrtllm}, fmt::format("{} must be absent: it clashes with weight_scale", other->name));
    }
  }

 private:
  bool present(const std::string& module, const char* kind, const Tensor* tensor) {
    if (tensor == nullptr)
      breaches_.add({kVllm, kSglang, kTrtllm}, fmt::format("{}.{} must be present", module, kind));
    return tensor != nullptr;
  }

  // Engines convert other dtypes by value, not by bits.
  void check_dtype(const Tensor& tensor, Dtype dtype) {
    if (tensor.dtype == dtype) return;
    breaches_.add({kVllm, kSglang, kTrtllm}, fmt::format("{} must be {}; found {}", tensor.name,
                                                         dtype_name(dtype), dtype_name(tensor.dtype)));
  }

  void check_scalar(const std::string& module, const char* kind, const Tensor* tensor) {
    if (!present(module, kind, tensor)) return;
    check_dtype(*tensor, Dtype::kF32);
    if (element_count(tensor->shape) == 1) return;
    breaches_.add({kVllm, kSglang, kTrtllm}, fmt::format("{} must hold one value; found shape {}",
                                                         tensor->name, shape_text(tensor->shape)));
  }

  void check_scale_shape(const std::string& module, const ExpertParts& parts) {
    const Shape& weight = parts.weight->shape;
    const Shape& scale = parts.weight_scale->shape;
    // Two elements a byte, 16 a scale.
    if (weight.size() == 2 && weight[1] % 8 == 0 && scale == Shape{weight[0], weight[1] / 8}) return;
    breaches_.add({kVllm, kSglang, kTrtllm},
                  fmt::format("{}.weight_scale must be [out, in/16] of weight {}; found {}", module,
                              shape_text(weight), shape_text(scale)));
  }

  V4Breaches& breaches_;
};

}  // namespace

void check_v4_experts(const Json& config, V4Tensors tensors, V4Breaches& breaches) {
  check_counts(config, tensors, breaches);
  ExpertRules rules(breaches);
  for (const auto& [module, parts] : tensors.experts) {
    if (tensors.has_format(parse_expert_name(module)->layer, ExpertsFormat::kNvfp4))
      rules.check(module, parts);
  }
}

}  // namespace nibblecast
