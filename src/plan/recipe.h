// plan/recipe.h - a recipe: what becomes of each linear, by patterns of module names.
//
// A recipe is a YAML file (docs/recipes.md has the grammar) or one built in by name. Rules are read in order,
// the last one that matches a module decides; a module that no rule matches is kept. Patterns are those of
// plan/glob.h, held against a module's official name ("layers.3.attn.wq_a") and its Hub name
// ("model.layers.3.self_attn.q_a_proj"). A recipe speaks of linears, router, head and embedding only
// (plan/recipe_modules.h); norms, hyper-connections and tables stay whatever a pattern says, and so do the
// draft layers, `mtp.*`.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "checkpoint/weight_format.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast {

// How NVFP4 block and tensor scales are chosen.
enum class RecipeMethod {
  kCast,         // MXFP4 sources keep codes and scales; any other source as kMax
  kMax,          // from the tensor's and each block's largest magnitude
  kMse,          // per block the best of 126 E4M3 scales by squared error
  kFourOverSix,  // per block the better of two: its largest magnitude at 6, or at 4
  kWmse,         // as kMse, errors weighted with the mean square of what enters their channel
};
// Of a weight that is not cast.
WeightMethod requantize_method(RecipeMethod method);
std::string_view recipe_method_name(RecipeMethod method);  // "cast", "max", "mse", "four_over_six", "wmse"
std::optional<RecipeMethod> parse_recipe_method(std::string_view name);

// The format that serving is told to use for the KV cache.
enum class KvCache { kNone, kFp8Cast, kFp8, kNvfp4Cast };
std::string_view kv_cache_name(KvCache kv_cache);  // "none", "fp8_cast", "fp8", "nvfp4_cast"
std::optional<KvCache> parse_kv_cache(std::string_view name);

struct ModuleRecipe {
  WeightFormat format = WeightFormat::kKeep;
  RecipeMethod method = RecipeMethod::kCast;  // of kNvfp4; kCast otherwise
  bool quantize_input = false;                // an input_scale is written: W4A4 or W8A8, else W4A16
  std::string rule = {};  // what decided, in words: "nvfp4.yaml:6:5: '*.attn.wo_a'", "no rule matches"
};

struct RecipeRule {
  std::vector<std::string> patterns = {};
  WeightFormat format = WeightFormat::kKeep;
  RecipeMethod method = RecipeMethod::kCast;
  bool quantize_input = false;
  int line = 0, column = 0;  // of the rule in its file, from 1
};

struct Recipe {
  std::string name = {};
  bool is_built_in = false;
  std::string origin = {};  // the path as given, or "recipe NAME" where built in
  std::string text = {};    // of a file: its content
  std::string description = {};
  std::vector<RecipeRule> rules = {};
  KvCache kv_cache = KvCache::kNone;
  std::optional<RecipeMethod> weight_method = {};  // --weight-method: in place of every rule's method
};

// The names of the built-in recipes, sorted: nvfp4, nvfp4_experts_only, nvfp4_mlp_only, nvfp4_omlp_only,
// w4a16_nvfp4.
std::vector<std::string> built_in_recipes();

// A built-in recipe by its name, else the file at that path (a path holds a '/' or ends in .yaml or .yml).
// Errors: kUsage for a name that is neither, with the names there are; kBadInput naming file:line:column for
// what is no recipe (unknown or repeated keys, wrong types, anchors, tags, nesting over 8, over 256
// patterns, a pattern over 200 bytes, files over 64 KiB); kUnsupported, likewise, for rules that this version
// cannot do. The text of a recipe changes nothing outside the returned value.
Recipe load_recipe(FileSystem& files, const std::string& name_or_path);
// Of the file at `path`, whose content is `text`.
Recipe recipe_of_file(std::string text, const std::string& path);

// The same of a text; `origin` is named in errors.
Recipe parse_recipe(std::string_view text, const std::string& origin);

// `hub_name` may be empty. Pure; linear in rules and names.
ModuleRecipe resolve(const Recipe& recipe, std::string_view official_name, std::string_view hub_name);

// For DeepSeek-V4, whose KV is one latent (plan/dialects/modelopt.h for others): nothing for kNone; for
// kFp8Cast a sentence that the metadata changes nothing there, as V4's engines choose the KV format
// themselves. Throws kUnsupported for kFp8 and kNvfp4Cast, with the reason.
std::optional<std::string> check_kv_cache(KvCache kv_cache);

}  // namespace nibblecast
