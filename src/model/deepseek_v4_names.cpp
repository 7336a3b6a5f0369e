#include "model/deepseek_v4_names.h"

#include <charconv>
#include <system_error>

namespace nibblecast {
namespace {

// Decimal without sign or leading zeros, as the names are written; advances `text` past it.
std::optional<uint64_t> take_number(std::string_view& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const size_t digits = static_cast<size_t>(end - text.data());
  if (error != std::errc() || (text.front() == '0' && digits > 1)) return std::nullopt;
  text.remove_prefix(digits);
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

std::optional<ExpertName> parse_expert_name(std::string_view module) {
  if (!take(module, "layers.")) return std::nullopt;
  const auto layer = take_number(module);
  if (!layer || !take(module, ".ffn.experts.")) return std::nullopt;
  const auto expert = take_number(module);
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
