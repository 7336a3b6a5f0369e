#include "plan/recipe_modules.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "plan/glob.h"

namespace nibblecast {
namespace {

std::string_view kind_name(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::kLinear:
      return "a linear";
    case ModuleKind::kGroupedLinear:
      return "a grouped product";
    case ModuleKind::kRouter:
      return "a router";
    case ModuleKind::kHead:
      return "the output head";
    case ModuleKind::kEmbedding:
      return "an embedding";
  }
  return "?";
}

bool may_have(ModuleKind kind, WeightFormat format) {
  const bool is_plain =
      format == WeightFormat::kKeep || format == WeightFormat::kBf16 || format == WeightFormat::kF32;
  if (is_plain || kind == ModuleKind::kLinear) return true;
  return kind == ModuleKind::kGroupedLinear && format == WeightFormat::kFp8Block;
}

[[noreturn]] void refuse(const ResolvedModule& found, const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kUnsupported, {},
              fmt::format("{}: {} as {}: {}", found.recipe.rule, found.module->name,
                          weight_format_name(found.recipe.format), problem),
              {.hint = hint});
}

void check_format(const ResolvedModule& found, const TileSize& tiles) {
  const WeightModule& module = *found.module;
  const ModuleRecipe& recipe = found.recipe;
  if (!may_have(module.kind, recipe.format)) {
    refuse(found, fmt::format("{} cannot have this format", kind_name(module.kind)),
           "add a rule after it that keeps " + module.name);
  }
  if (recipe.format == WeightFormat::kNvfp4 && module.shape[1] % 16 != 0)
    refuse(found, fmt::format("its {} inputs are no multiple of 16", module.shape[1]), "keep it");
  if (recipe.format == WeightFormat::kFp8Block && (tiles.rows != 128 || tiles.cols != 128)) {
    refuse(found, fmt::format("config.json has blocks of {} x {}", tiles.rows, tiles.cols),
           "only 128 x 128 can be written");
  }
}

void check_same(const ResolvedModule& first, const ResolvedModule& expert) {
  if (first.recipe.format == expert.recipe.format &&
      first.recipe.quantize_input == expert.recipe.quantize_input)
    return;
  refuse(expert,
         fmt::format("{} becomes {} by {}; the routed experts of a layer have one format", first.module->name,
                     weight_format_name(first.recipe.format), first.recipe.rule),
         "name them all: '*.ffn.experts.*'");
}

bool matches(std::string_view pattern, const WeightModule& module) {
  return glob_match(pattern, module.name) || glob_match(pattern, module.hub_name);
}

std::vector<std::string_view> words_of(std::string_view name) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t dot = name.find('.');
    words.push_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return words;
    name.remove_prefix(dot + 1);
  }
}

char lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter; }

// How many letters must be put in, left out or changed, whatever their case.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (lower(a[i]) == lower(b[j]) ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// "; no name holds 'expert': is 'experts' meant?", for the pattern's first word without a wildcard that is in
// no name.
std::string near_name(std::string_view pattern, std::span<const ResolvedModule> modules) {
  std::set<std::string_view> words;
  for (const ResolvedModule& each : modules) {
    for (const std::string_view name :
         {std::string_view(each.module->name), std::string_view(each.module->hub_name)}) {
      for (const std::string_view word : words_of(name)) words.insert(word);
    }
  }
  for (const std::string_view word : words_of(pattern)) {
    if (word.empty() || word.find_first_of("*?[") != std::string_view::npos || words.contains(word)) continue;
    const auto distance = [&](std::string_view other) { return edit_distance(word, other); };
    const std::string_view nearest = *std::ranges::min_element(words, {}, distance);
    const bool is_near = distance(nearest) <= std::max<size_t>(1, word.size() / 2);
    return fmt::format("; no name holds '{}'{}", printable(std::string(word)),
                       is_near ? fmt::format(": is '{}' meant?", nearest) : "");
  }
  return fmt::format("; names are such as {} or {}", modules.back().module->name,
                     modules.back().module->hub_name);
}

}  // namespace

std::vector<ResolvedModule> resolve_modules(const Recipe& recipe, const ModelTable& table,
                                            const TileSize& tiles) {
  std::vector<ResolvedModule> found;
  const auto add = [&](const LayerTable& layer) {
    std::optional<size_t> first_expert;
    for (const WeightModule& module : layer.modules) {
      found.push_back({&module, resolve(recipe, module.name, module.hub_name)});
      check_format(found.back(), tiles);
      if (!module.is_routed_expert()) continue;
      if (!first_expert) first_expert = found.size() - 1;
      check_same(found[*first_expert], found.back());
    }
  };
  add(table.globals);
  for (const LayerTable& layer : table.layers) add(layer);
  return found;
}

const ResolvedModule* find_module(std::span<const ResolvedModule> modules, std::string_view name) {
  constexpr std::string_view kWeightSuffix = ".weight";
  if (name.ends_with(kWeightSuffix)) name.remove_suffix(kWeightSuffix.size());
  const auto found = std::ranges::find_if(modules, [&](const ResolvedModule& each) {
    return each.module->name == name || each.module->hub_name == name;
  });
  return found == modules.end() ? nullptr : &*found;
}

std::vector<std::string> unmatched_patterns(const Recipe& recipe, std::span<const ResolvedModule> modules) {
  std::vector<std::string> sentences;
  if (recipe.is_built_in) return sentences;
  for (const RecipeRule& rule : recipe.rules) {
    for (const std::string& pattern : rule.patterns) {
      const bool is_used = pattern.starts_with("mtp.") || std::ranges::any_of(modules, [&](const auto& each) {
                             return matches(pattern, *each.module);
                           });
      if (!is_used)
        sentences.push_back(fmt::format("{}:{}:{}: '{}' matches no module that a recipe can change{}",
                                        recipe.origin, rule.line, rule.column, printable(pattern),
                                        near_name(pattern, modules)));
    }
  }
  return sentences;
}

std::vector<ManifestModule> manifest_modules(std::span<const ResolvedModule> modules) {
  std::vector<ManifestModule> entries;
  for (const auto& [module, recipe] : modules) {
    const bool is_expert = module->is_routed_expert();
    ManifestModule entry{.name = module->name,
                         .format = recipe.format,
                         .quantize_input = recipe.quantize_input,
                         .is_fp8_in_source = module->quantized_in_release && !is_expert};
    if (is_expert) {
      const std::string expert_of = experts_name(*module);
      if (!entries.empty() && entries.back().name == expert_of) continue;
      entry.name = expert_of;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace nibblecast
