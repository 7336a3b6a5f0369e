// model/deepseek_v4_names.h - the names of DeepSeek-V4's routed experts, which the family and the rules of
// the engines that read its own form of NVFP4 share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nibblecast {

// "layers.3.ffn.experts.17.w2" -> {3, 17, 2}; nullopt for any other module name, mtp.* included.
struct ExpertName {
  uint64_t layer = 0, expert = 0;
  int projection = 0;  // 1, 2, 3

  bool operator==(const ExpertName&) const = default;
};
std::optional<ExpertName> parse_expert_name(std::string_view module);
// "layers.LAYER.NAME".
std::string layer_module(uint64_t layer, const std::string& name);
std::string expert_module(uint64_t layer, uint64_t expert, int projection);

}  // namespace nibblecast
