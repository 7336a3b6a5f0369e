// plan/recipe_builtin.h - the recipes of recipes/*.yaml, as the build put them in.
#pragma once

#include <span>
#include <string_view>

namespace nibblecast {

struct BuiltInRecipe {
  std::string_view name;  // the file's stem
  std::string_view text;
};
extern const std::span<const BuiltInRecipe> kBuiltInRecipes;  // sorted by name

}  // namespace nibblecast
