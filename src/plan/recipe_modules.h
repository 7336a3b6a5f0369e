// plan/recipe_modules.h - a recipe applied to a model: what becomes of each module that has a weight matrix.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/manifest.h"
#include "model/model_table.h"
#include "plan/recipe.h"
#include "weights/container.h"

namespace nibblecast {

struct ResolvedModule {
  const WeightModule* module = nullptr;  // of the table
  ModuleRecipe recipe;
};

// Every module of the table, which outlives them: those outside of layers, then the layers ascending.
// kUnsupported, naming the module and the rule that decided, where the format is not one the module can have
// (grouped: keep, fp8_block, bf16, f32; router, head and embedding: keep, bf16, f32; nvfp4 wants inputs in
// 16s, fp8_block a config of 128 x 128 blocks), and where routed experts of a layer differ in format or
// quantize_input: engines know one format a layer. Methods may differ.
std::vector<ResolvedModule> resolve_modules(const Recipe& recipe, const ModelTable& table,
                                            const TileSize& tiles);

// By either of its names, with or without ".weight"; null where nothing has that name.
const ResolvedModule* find_module(std::span<const ResolvedModule> modules, std::string_view name);

// A sentence for each pattern of a recipe file that no module's name matches, mtp.* aside, with the word of
// it that is in no name and the nearest word that is; none for built-in recipes, which serve models of other
// kinds too.
std::vector<std::string> unmatched_patterns(const Recipe& recipe, std::span<const ResolvedModule> modules);

// What the manifests say of them: one entry a module, all routed experts of a layer as one,
// "layers.N.ffn.experts".
std::vector<ManifestModule> manifest_modules(std::span<const ResolvedModule> modules);

}  // namespace nibblecast
