// model/families/deepseek_v4/synth.h - DeepSeek-V4's tensors as `synth` makes them.
#pragma once

#include <optional>
#include <vector>

#include "model/families/deepseek_v4/tensors.h"
#include "model/model.h"
#include "model/synth_tensor.h"

namespace nibblecast {

// As Family::synth.
std::vector<SynthTensor> synth_deepseek_v4(const Model& model, std::optional<uint64_t> layer);

// `stored` is one of release_tensors(config, tensor).
Fill fill_of(const DeepseekV4Config& config, const ModelTensor& tensor, const Tensor& stored);

}  // namespace nibblecast
