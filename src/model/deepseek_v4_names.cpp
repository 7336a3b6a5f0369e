#include "model/deepseek_v4_names.h"

#include "base/cut.h"

namespace nibblecast {
namespace {

// Without leading zeros, as the names are written.
std::optional<uint64_t> take_index(std::string_view& text) {
  const std::string_view all = text;
  const std::optional<uint64_t> index = take_number(text);
  return index && all.front() == '0' && text.size() + 1 < all.size() ? std::nullopt : index;
}

}  // namespace

std::optional<ExpertName> parse_expert_name(std::string_view module) {
  if (!take(module, "layers.")) return std::nullopt;
  const auto layer = take_index(module);
  if (!layer || !take(module, ".ffn.experts.")) return std::nullopt;
  const auto expert = take_index(module);
  if (!expert || !take(module, ".w") || module.size() != 1) return std::nullopt;
  if (module[0] < '1' || module[0] > '3') return std::nullopt;
  return ExpertName{*layer, *expert, module[0] - '0'};
}

std::string layer_module(uint64_t layer, const std::string& name) {
  return "layers." + std::to_string(layer) + "." + name;
}

std::string expert_module(uint64_t layer, uint64_t expert, int projection) {
  return layer_module(layer, "ffn.experts." + std::to_string(expert) + ".w") + std::to_string(projection);
}

}  // namespace nibblecast
