// model/families/deepseek_v4/modules.h - transformers' names of DeepSeek-V4's modules and tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"

namespace nibblecast {

// transformers' name (5.17) of a module with a weight matrix, by its official name; empty for any other text.
std::string hub_module_name(std::string_view official_name);

// By its official name; nothing for any other text, and for the draft layers, which that model lacks.
std::optional<HubTensor> hub_tensor(const DeepseekV4Config& config, std::string_view official_name);

}  // namespace nibblecast
