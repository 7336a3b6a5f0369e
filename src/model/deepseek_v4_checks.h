// model/deepseek_v4_checks.h - what a forward pass refuses of what it computed, in the same words on every
// device. `module` is a full module name.
#pragma once

#include <cstdint>
#include <string>

#include "model/deepseek_v4.h"

namespace nibblecast {

// kUnsupported: numbers that no forward pass here can take.
void check_forward_config(const DeepseekV4Config& config);
// The same of a CUDA device.
void check_cuda_config(const DeepseekV4Config& config);

// kBadInput where the expert's weights are not of the model's shapes.
void check_expert(const DeepseekV4Config& config, uint64_t layer, uint64_t expert,
                  const StoredExpert& weights);

// kBadInput where the largest magnitude seen is NaN or infinite.
void check_input(const std::string& module, float amax);
void check_streams(const std::string& module, float amax);
void check_embedding(float amax);

[[noreturn]] void refuse_nan_score(const std::string& module);
[[noreturn]] void refuse_nan_entry(const std::string& module);
[[noreturn]] void refuse_expert(const std::string& tensor, uint64_t experts, int64_t found, int32_t token_id);

}  // namespace nibblecast
