#include "plan/dialects/scheme_names.h"

#include <fmt/format.h>

#include <string>

#include "base/error.h"

namespace nibblecast {

std::optional<std::string_view> scheme_of(const ResolvedModule& module, const SchemeNames& names) {
  const auto refuse = [&](const std::string& problem) {
    throw Error(ErrorKind::kUnsupported, {},
                fmt::format("{}: {} as {}: {}", module.recipe.rule, module.module->name,
                            weight_format_name(module.recipe.format), problem),
                {.expected = "nvfp4, fp8 with quantized inputs, bf16, f32 or keep"});
  };
  switch (module.recipe.format) {
    case WeightFormat::kNvfp4:
      return module.recipe.quantize_input ? names.nvfp4 : names.nvfp4_weights;
    case WeightFormat::kFp8:
      if (!module.recipe.quantize_input) refuse(fmt::format("{} has no FP8 of weights alone", names.form));
      return names.fp8;
    case WeightFormat::kFp8Block:
      refuse("only DeepSeek-V4's own form holds it");
      return std::nullopt;
    case WeightFormat::kKeep:
    case WeightFormat::kBf16:
    case WeightFormat::kF32:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace nibblecast
