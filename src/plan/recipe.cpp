#include "plan/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "plan/glob.h"
#include "plan/recipe_builtin.h"
#include "plan/recipe_yaml.h"

namespace nibblecast {
namespace {

constexpr std::pair<RecipeMethod, std::string_view> kMethods[] = {
    {RecipeMethod::kCast, "cast"}, {RecipeMethod::kMax, "max"},
    {RecipeMethod::kMse, "mse"},   {RecipeMethod::kFourOverSix, "four_over_six"},
    {RecipeMethod::kWmse, "wmse"},
};
constexpr std::pair<KvCache, std::string_view> kKvCaches[] = {
    {KvCache::kNone, "none"},
    {KvCache::kFp8Cast, "fp8_cast"},
    {KvCache::kFp8, "fp8"},
    {KvCache::kNvfp4Cast, "nvfp4_cast"},
};
constexpr std::string_view kDraft = "mtp.";
// Each pattern is held against some 140,000 names of V4-Pro.
constexpr size_t kMaxPatterns = 256;
constexpr size_t kMaxPatternBytes = 200;

template <class T, size_t kCount>
std::string_view name_in(const std::pair<T, std::string_view> (&names)[kCount], T value) {
  for (const auto& [each, name] : names) {
    if (each == value) return name;
  }
  return "?";
}

template <class T, size_t kCount>
std::optional<T> value_in(const std::pair<T, std::string_view> (&names)[kCount], std::string_view text) {
  for (const auto& [value, name] : names) {
    if (name == text) return value;
  }
  return std::nullopt;
}

// Reads the tree of a recipe; every error names its place.
class RecipeReader {
 public:
  explicit RecipeReader(const std::string& origin) : origin_(origin) {}

  Recipe read(const YamlNode& root) const {
    Recipe recipe{.origin = origin_};
    if (root.kind != YamlNode::Kind::kMap) fail(root, "a recipe is a map with the key 'rules'");
    bool has_rules = false;
    for (size_t i = 0; i < root.keys.size(); ++i) {
      const std::string& key = root.keys[i].text;
      const YamlNode& value = root.items[i];
      if (key == "name") {
        recipe.name = text(value, key);
      } else if (key == "description") {
        recipe.description = text(value, key);
      } else if (key == "kv_cache") {
        recipe.kv_cache = one_of(value, key, parse_kv_cache, "none, fp8_cast, fp8, nvfp4_cast");
      } else if (key == "rules") {
        has_rules = true;
        if (value.kind != YamlNode::Kind::kList) fail(value, "'rules' is a list of rules");
        size_t patterns = 0;
        for (const YamlNode& rule : value.items) {
          recipe.rules.push_back(read_rule(rule));
          patterns += recipe.rules.back().patterns.size();
          if (patterns > kMaxPatterns) fail(rule, fmt::format("over {} patterns", kMaxPatterns));
        }
      } else {
        unknown_key(root.keys[i], "name, description, kv_cache, rules");
      }
    }
    if (!has_rules) fail(root, "a recipe needs the key 'rules'");
    return recipe;
  }

 private:
  struct Place {
    const YamlNode* modules = nullptr;
    const YamlNode* group_size = nullptr;
    const YamlNode* method = nullptr;
    const YamlNode* quantize_input = nullptr;
  };

  RecipeRule read_rule(const YamlNode& node) const {
    if (node.kind != YamlNode::Kind::kMap) fail(node, "a rule is a map with the keys 'modules' and 'format'");
    RecipeRule rule{.line = node.line, .column = node.column};
    bool has_format = false;
    Place place;
    for (size_t i = 0; i < node.keys.size(); ++i) {
      const std::string& key = node.keys[i].text;
      const YamlNode& value = node.items[i];
      if (key == "modules") {
        place.modules = &value;
        rule.patterns = patterns(value);
      } else if (key == "format") {
        has_format = true;
        rule.format = one_of(value, key, parse_weight_format, "keep, nvfp4, fp8, fp8_block, bf16, f32");
      } else if (key == "weight_method") {
        place.method = &value;
        rule.method = one_of(value, key, parse_recipe_method, "cast, max, mse, four_over_six, wmse");
      } else if (key == "quantize_input") {
        place.quantize_input = &value;
        rule.quantize_input = one_of(value, key, boolean, "true, false");
      } else if (key == "group_size") {
        place.group_size = &value;
      } else {
        unknown_key(node.keys[i], "modules, format, weight_method, quantize_input, group_size");
      }
    }
    if (rule.patterns.empty()) fail(node, "a rule needs the key 'modules'");
    if (!has_format) fail(node, "a rule needs the key 'format'");
    check_rule(rule, place);
    return rule;
  }

  // What may stand beside a format, and its default.
  void check_rule(RecipeRule& rule, const Place& place) const {
    const bool is_nvfp4 = rule.format == WeightFormat::kNvfp4;
    if (place.method != nullptr && !is_nvfp4) fail(*place.method, "only format nvfp4 has a 'weight_method'");
    if (place.group_size != nullptr && !is_nvfp4)
      fail(*place.group_size, "only format nvfp4 has a 'group_size'");
    if (place.group_size != nullptr && text(*place.group_size, "group_size") != "16") {
      fail(*place.group_size, "NVFP4 has a scale per 16 values",
           {.expected = "16", .found = quoted(*place.group_size)}, ErrorKind::kUnsupported);
    }
    const auto is_draft = [](const std::string& pattern) { return pattern.starts_with(kDraft); };
    if (rule.format != WeightFormat::kKeep && std::ranges::any_of(rule.patterns, is_draft)) {
      fail(*place.modules, "draft layers can only be kept", {.expected = "format keep"},
           ErrorKind::kUnsupported);
    }
    const bool may_quantize_input = is_nvfp4 || rule.format == WeightFormat::kFp8;
    if (place.quantize_input == nullptr)
      rule.quantize_input = may_quantize_input;
    else if (!may_quantize_input)
      fail(*place.quantize_input, "only the formats nvfp4 and fp8 have a 'quantize_input'");
  }

  std::vector<std::string> patterns(const YamlNode& node) const {
    std::vector<std::string> patterns;
    if (node.kind == YamlNode::Kind::kList) {
      for (const YamlNode& item : node.items) patterns.push_back(pattern(item));
      if (patterns.empty()) fail(node, "'modules' is empty");
    } else {
      patterns.push_back(pattern(node));
    }
    return patterns;
  }

  std::string pattern(const YamlNode& node) const {
    std::string pattern = text(node, "modules");
    if (pattern.empty()) fail(node, "an empty pattern");
    if (pattern.size() > kMaxPatternBytes)
      fail(node, fmt::format("a pattern of over {} bytes", kMaxPatternBytes));
    return pattern;
  }

  std::string text(const YamlNode& node, const std::string& key) const {
    if (node.kind != YamlNode::Kind::kScalar) fail(node, fmt::format("'{}' is no list, map or nothing", key));
    return node.text;
  }

  static std::optional<bool> boolean(std::string_view text) {
    if (text != "true" && text != "false") return std::nullopt;
    return text == "true";
  }

  template <class Parse>
  typename std::invoke_result_t<Parse, std::string_view>::value_type one_of(const YamlNode& node,
                                                                            const std::string& key,
                                                                            Parse parse,
                                                                            const char* values) const {
    const auto value = node.kind == YamlNode::Kind::kScalar ? parse(node.text) : std::nullopt;
    if (!value)
      fail(node, fmt::format("'{}' has no such value", key), {.expected = values, .found = quoted(node)});
    return *value;
  }

  static std::string quoted(const YamlNode& node) {
    switch (node.kind) {
      case YamlNode::Kind::kNull:
        return "nothing";
      case YamlNode::Kind::kScalar:
        return fmt::format("'{}'", printable(node.text));
      case YamlNode::Kind::kList:
        return "a list";
      case YamlNode::Kind::kMap:
        return "a map";
    }
    return "?";
  }

  [[noreturn]] void unknown_key(const YamlNode& key, const char* known) const {
    fail(key, fmt::format("unknown key '{}'", printable(key.text)), {.expected = known});
  }

  [[noreturn]] void fail(const YamlNode& node, const std::string& problem, Detail detail = {},
                         ErrorKind kind = ErrorKind::kBadInput) const {
    throw Error(kind, {.file = position(origin_, node)}, problem, std::move(detail));
  }

  const std::string& origin_;
};

}  // namespace

WeightMethod requantize_method(RecipeMethod method) {
  switch (method) {
    case RecipeMethod::kCast:
    case RecipeMethod::kMax:
      return WeightMethod::kMax;
    case RecipeMethod::kMse:
      return WeightMethod::kMse;
    case RecipeMethod::kFourOverSix:
      return WeightMethod::kFourOverSix;
    case RecipeMethod::kWmse:
      return WeightMethod::kWmse;
  }
  return WeightMethod::kMax;
}

std::string_view recipe_method_name(RecipeMethod method) { return name_in(kMethods, method); }
std::optional<RecipeMethod> parse_recipe_method(std::string_view name) { return value_in(kMethods, name); }
std::string_view kv_cache_name(KvCache kv_cache) { return name_in(kKvCaches, kv_cache); }
std::optional<KvCache> parse_kv_cache(std::string_view name) { return value_in(kKvCaches, name); }

std::vector<std::string> built_in_recipes() {
  std::vector<std::string> names;
  for (const BuiltInRecipe& recipe : kBuiltInRecipes) names.emplace_back(recipe.name);
  return names;
}

Recipe parse_recipe(std::string_view text, const std::string& origin) {
  return RecipeReader(origin).read(parse_yaml(text, origin));
}

Recipe load_recipe(FileSystem& files, const std::string& name_or_path) {
  for (const BuiltInRecipe& built_in : kBuiltInRecipes) {
    if (built_in.name != name_or_path) continue;
    Recipe recipe = parse_recipe(built_in.text, "recipe " + name_or_path);
    recipe.is_built_in = true;
    return recipe;
  }
  const bool is_path = name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml") ||
                       name_or_path.ends_with(".yml");
  if (!is_path) {
    throw Error(ErrorKind::kUsage, {}, fmt::format("unknown recipe '{}'", printable(name_or_path)),
                {.expected = fmt::format("auto, {} or the path of a .yaml file",
                                         fmt::join(built_in_recipes(), ", "))});
  }
  return recipe_of_file(read_text(files, name_or_path, kMaxRecipeBytes), name_or_path);
}

Recipe recipe_of_file(std::string text, const std::string& path) {
  Recipe recipe = parse_recipe(text, path);
  if (recipe.name.empty()) recipe.name = std::filesystem::path(path).stem().string();
  recipe.text = std::move(text);
  return recipe;
}

ModuleRecipe resolve(const Recipe& recipe, std::string_view official_name, std::string_view hub_name) {
  if (official_name.starts_with(kDraft)) return {.rule = "draft layers stay as the source has them"};
  ModuleRecipe found{.rule = "no rule matches, so it stays"};
  for (auto rule = recipe.rules.rbegin(); rule != recipe.rules.rend(); ++rule) {
    const auto pattern = std::ranges::find_if(rule->patterns, [&](const std::string& each) {
      return glob_match(each, official_name) || (!hub_name.empty() && glob_match(each, hub_name));
    });
    if (pattern == rule->patterns.end()) continue;
    found = {.format = rule->format, .method = rule->method, .quantize_input = rule->quantize_input};
    found.rule = fmt::format("{}:{}:{}: '{}'", recipe.origin, rule->line, rule->column, printable(*pattern));
    break;
  }
  if (found.format == WeightFormat::kNvfp4 && recipe.weight_method) {
    found.method = *recipe.weight_method;
    found.rule += fmt::format(", with --weight-method {}", recipe_method_name(found.method));
  }
  return found;
}

std::optional<std::string> check_kv_cache(KvCache kv_cache) {
  switch (kv_cache) {
    case KvCache::kNone:
      return std::nullopt;
    case KvCache::kFp8Cast:
      return "--kv-cache fp8_cast writes metadata only: DeepSeek-V4's engines choose the KV cache's format "
             "themselves";
    case KvCache::kFp8:
      throw Error(
          ErrorKind::kUnsupported, {},
          "--kv-cache fp8 needs a k_scale and a v_scale per layer; DeepSeek-V4 caches one latent that is "
          "neither, and no engine reads a scale for it",
          {.hint = "use --kv-cache none, or fp8_cast for the metadata alone"});
    case KvCache::kNvfp4Cast:
      throw Error(
          ErrorKind::kUnsupported, {},
          "--kv-cache nvfp4_cast: no known engine has an NVFP4 cache for DeepSeek-V4's latent attention",
          {.hint = "use --kv-cache none, or fp8_cast for the metadata alone"});
  }
  return std::nullopt;
}

}  // namespace nibblecast
