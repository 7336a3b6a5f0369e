// checkpoint/weight_format.h - the ways a linear's weight is stored in an output.
#pragma once

#include <optional>
#include <string_view>

namespace nibblecast {

enum class WeightFormat {
  kKeep,      // the source's bytes
  kNvfp4,     // E2M1 codes, an E4M3 scale per 16 inputs, an F32 scale per tensor
  kFp8,       // E4M3, one F32 scale per tensor
  kFp8Block,  // E4M3, one scale per 128 x 128 block, as DeepSeek's releases store attention
  kBf16,
  kF32,
};

// "keep", "nvfp4", "fp8", "fp8_block", "bf16", "f32".
std::string_view weight_format_name(WeightFormat format);
std::optional<WeightFormat> parse_weight_format(std::string_view name);

}  // namespace nibblecast
