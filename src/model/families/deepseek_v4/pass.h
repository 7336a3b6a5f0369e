// model/families/deepseek_v4/pass.h - DeepSeek-V4's forward pass as a ForwardPass.
#pragma once

#include <memory>
#include <vector>

#include "model/families/deepseek_v4/config.h"
#include "model/forward_pass.h"

namespace nibblecast {

template <class T>
std::unique_ptr<ForwardPass> make_deepseek_v4_pass(const DeepseekV4Config& config,
                                                   std::vector<std::vector<int32_t>> rows,
                                                   const ForwardDevice& device);

}  // namespace nibblecast
