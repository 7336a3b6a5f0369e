// model/deepseek_v4_groups.h - which linears of DeepSeek-V4 share their scales.
#pragma once

#include <string>
#include <vector>

#include "model/deepseek_v4_config.h"

namespace nibblecast {

// The linears of a layer that have one input, and hence one weight amax and one input amax, as ModelOpt 0.47
// finds them: official names, groups of two or more, every linear in at most one. Of a group, those that
// become NVFP4 share; wo_b and w2 stand alone. Order: attention's groups, the shared expert, then the routed
// experts ascending.
std::vector<std::vector<std::string>> fused_groups(const DeepseekV4Config& config, uint64_t layer);

}  // namespace nibblecast
