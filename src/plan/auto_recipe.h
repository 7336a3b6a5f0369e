// plan/auto_recipe.h - the recipe that `auto`, the default, stands for.
#pragma once

#include <string_view>

#include "model/model.h"

namespace nibblecast {

// What is published of such models (docs/recipes.md): experts alone where there are any, else the MLPs.
std::string_view auto_recipe(const Model& model);

}  // namespace nibblecast
