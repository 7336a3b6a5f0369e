// plan/decisions.h - what a recipe makes of each linear of a checkpoint.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "plan/inventory.h"
#include "plan/layout.h"
#include "plan/linear.h"
#include "plan/options.h"
#include "plan/recipe_modules.h"

namespace nibblecast {

struct Decision {
  SourceLinear linear;
  Make make = Make::kKeep;
  bool try_cast = false;  // FP8 that may be exactly MXFP4
};

struct Decisions {
  Recipe recipe;
  std::vector<ResolvedModule> modules;  // of the model's table, which outlives this
  Inventory inventory;
  std::vector<Decision> linears;  // by module
  std::vector<SourceLinear>
      drafts;  // that no recipe speaks of and that cannot stay as they are: they become BF16
  std::vector<std::pair<const WeightModule*, std::string>>
      cache_scales;  // k_proj or v_proj, and its scale's name
  Replacements replacements;
  std::string hash;    // of what decides the output's bytes
  size_t widened = 0;  // kept weights that become BF16, drafts included
};

// `options` are resolved. Throws what take_inventory() and resolve_modules() throw.
Decisions decide(const Checkpoint& source, const Model& model, const QuantizeOptions& options, Recipe recipe);

}  // namespace nibblecast
