#include "checkpoint/weight_format.h"

#include <utility>

namespace nibblecast {
namespace {

constexpr std::pair<WeightFormat, std::string_view> kNames[] = {
    {WeightFormat::kKeep, "keep"},          {WeightFormat::kNvfp4, "nvfp4"}, {WeightFormat::kFp8, "fp8"},
    {WeightFormat::kFp8Block, "fp8_block"}, {WeightFormat::kBf16, "bf16"},   {WeightFormat::kF32, "f32"},
};

}  // namespace

std::string_view weight_format_name(WeightFormat format) {
  for (const auto& [value, name] : kNames) {
    if (value == format) return name;
  }
  return "?";
}

std::optional<WeightFormat> parse_weight_format(std::string_view text) {
  for (const auto& [value, name] : kNames) {
    if (name == text) return value;
  }
  return std::nullopt;
}

}  // namespace nibblecast
