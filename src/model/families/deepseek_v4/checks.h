// model/families/deepseek_v4/checks.h - what DeepSeek-V4's forward pass refuses besides model/forward_checks.h, in the
// same words on every device. `module` is a full module name.
#pragma once

#include <cstdint>
#include <string>

#include "model/families/deepseek_v4/forward.h"
#include "model/forward_checks.h"

namespace nibblecast {

// kUnsupported: numbers that no forward pass here can take.
void check_forward_config(const DeepseekV4Config& config);
// The same of a CUDA device.
void check_cuda_config(const DeepseekV4Config& config);

// kBadInput where the expert's weights are not of the model's shapes.
void check_expert(const DeepseekV4Config& config, uint64_t layer, uint64_t expert,
                  const StoredExpert& weights);

[[noreturn]] void refuse_nan_entry(const std::string& module);
[[noreturn]] void refuse_expert(const std::string& tensor, uint64_t experts, int64_t found, int32_t token_id);

}  // namespace nibblecast
