// Any bytes as a recipe: refused with Error, or a recipe that decides every module.
#include <string_view>

#include "fuzzing.h"
#include "plan/recipe.h"

namespace nibblecast {
namespace {

using fuzzing::require;

void try_recipe(std::string_view text) {
  const Recipe recipe = parse_recipe(text, "recipe");
  for (const RecipeRule& rule : recipe.rules)
    require(!rule.patterns.empty() && rule.line > 0 && rule.column > 0);
  for (const char* name : {"layers.0.attn.wq_a", "layers.12.ffn.experts.7.w2", "head"}) {
    const ModuleRecipe found = resolve(recipe, name, "model.layers.0.self_attn.q_a_proj");
    require(!found.rule.empty());
    require(!found.quantize_input || found.format == WeightFormat::kNvfp4 ||
            found.format == WeightFormat::kFp8);
  }
  require(resolve(recipe, "mtp.0.attn.wq_a", "").format == WeightFormat::kKeep);
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  fuzzing::refused_or([&] { try_recipe(fuzzing::text_of(bytes, size)); });
  return 0;
}
