#include "model/families/deepseek_v4/synth.h"

#include <cmath>
#include <string_view>
#include <utility>

#include "model/families/deepseek_v4/tensors.h"

namespace nibblecast {
namespace {

// rms of the output for an input of rms 1.
double gain_of(std::string_view name) {
  if (name == "head.weight") return 2;                // some tokens clearly more likely than others
  if (name.ends_with("ffn.gate.weight")) return 1.5;  // routing that depends on the token, not on the bias
  return 1;
}

struct Uniform {
  double center = 0, half_width = 0;
};

Uniform uniform_of(const ModelTensor& tensor) {
  const std::string_view name = tensor.name;
  const auto matrix = [&](double gain) {
    return Uniform{0, gain * std::sqrt(3.0 / static_cast<double>(tensor.shape[1]))};
  };
  if (name == "embed.weight") return {0, std::sqrt(3.0)};  // rms 1
  if (tensor.storage == Storage::kBF16)
    return tensor.shape.size() == 1 ? Uniform{1, 0.25} : matrix(gain_of(name));
  if (name.ends_with("_fn")) return matrix(0.5);  // gates that stay off their ends
  if (name.ends_with("_scale")) return {1, 0.25};
  if (name.ends_with("attn_sink")) return {0, 1};
  if (name.ends_with("gate.bias")) return {0, 0.05};
  return {0, 0.5};  // ape and *_base
}

// A layer's; behind the last one the draft layer's; without a layer, of those outside of layers.
std::vector<ModelTensor> tensors_of(const DeepseekV4Config& config, std::optional<uint64_t> layer) {
  if (!layer) return global_tensors(config);
  return *layer < config.num_hidden_layers ? layer_tensors(config, *layer) : mtp_tensors(config);
}

Fill fill_of_linear(bool is_mxfp4, uint64_t fan_in, Dtype dtype) {
  using enum Fill::Kind;
  if (dtype == Dtype::kF32 || dtype == Dtype::kF8E8M0)
    return {.kind = is_mxfp4 ? kMxfp4Scales : kFp8Scales, .fan_in = fan_in};
  return {.kind = is_mxfp4 ? kMxfp4Codes : kFp8Codes};
}

}  // namespace

Fill fill_of(const DeepseekV4Config& config, const ModelTensor& tensor, const Tensor& stored) {
  if (tensor.storage == Storage::kI64)
    return {.kind = Fill::Kind::kExperts, .experts = config.n_routed_experts};
  if (tensor.storage == Storage::kFp8Block || tensor.storage == Storage::kExpert) {
    const bool is_mxfp4 = tensor.storage == Storage::kExpert && config.expert_dtype != "fp8";
    return fill_of_linear(is_mxfp4, tensor.shape[1], stored.dtype);
  }
  const Uniform uniform = uniform_of(tensor);
  return {.center = uniform.center, .half_width = uniform.half_width};
}

std::vector<SynthTensor> synth_deepseek_v4(const Model& model, std::optional<uint64_t> layer) {
  const auto& config = std::get<DeepseekV4Config>(model.spec);
  std::vector<SynthTensor> tensors;
  for (const ModelTensor& tensor : tensors_of(config, layer)) {
    const bool is_norm = tensor.storage == Storage::kBF16 && tensor.shape.size() == 1;
    for (Tensor& stored : release_tensors(config, tensor)) {
      const Fill fill = fill_of(config, tensor, stored);
      tensors.push_back({std::move(stored), fill, is_norm});
    }
  }
  return tensors;
}

}  // namespace nibblecast
