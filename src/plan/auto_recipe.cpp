#include "plan/auto_recipe.h"

namespace nibblecast {

std::string_view auto_recipe(const Model& model) {
  return model.table.most_experts() > 0 ? "nvfp4_experts_only" : "nvfp4_mlp_only";
}

}  // namespace nibblecast
