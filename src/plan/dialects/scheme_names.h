// plan/dialects/scheme_names.h - what a dialect calls that which becomes of a module.
#pragma once

#include <optional>
#include <string_view>

#include "plan/recipe_modules.h"

namespace nibblecast {

struct SchemeNames {
  std::string_view form;  // of the dialect, in messages
  std::string_view nvfp4, nvfp4_weights, fp8;
};

// Nothing where the module stays or becomes BF16 or F32. kUnsupported, naming the module and its rule:
// fp8_block, and fp8 without quantized inputs.
std::optional<std::string_view> scheme_of(const ResolvedModule& module, const SchemeNames& names);

}  // namespace nibblecast
