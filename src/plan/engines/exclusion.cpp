#include "plan/engines/exclusion.h"

#include <algorithm>
#include <string_view>

#include "plan/glob.h"

namespace nibblecast {
namespace {

using Patterns = std::span<const std::string>;

// Whether `matches` holds for no, all or some of the unit's modules.
template <class Matches>
Exclusion of_parts(const EngineUnit& unit, const Matches& matches) {
  const auto count = std::ranges::count_if(
      unit.modules, [&](const WeightModule* module) { return matches(std::string_view(module->name)); });
  if (count == 0) return Exclusion::kNone;
  return static_cast<size_t>(count) == unit.modules.size() ? Exclusion::kAll : Exclusion::kParts;
}

Exclusion vllm(const EngineUnit& unit, std::string_view prefix, Patterns patterns) {
  const auto listed = [&](std::string_view name) {
    return std::ranges::find(patterns, name) != patterns.end();
  };
  if (unit.kind == EngineUnit::Kind::kFused) {
    const Exclusion parts = of_parts(unit, listed);
    if (parts != Exclusion::kNone) return parts;
  }
  const auto excludes = [&](const std::string& pattern) {
    const bool names_experts =
        unit.kind == EngineUnit::Kind::kExperts && pattern.find(prefix) != std::string::npos;
    return names_experts || prefix.find(pattern) != std::string_view::npos || glob_match(pattern, prefix);
  };
  return std::ranges::any_of(patterns, excludes) ? Exclusion::kAll : Exclusion::kNone;
}

// Whether the pattern is a run of whole steps of the path.
bool is_within(std::string_view pattern, std::string_view path) {
  const std::string dotted = "." + std::string(path) + ".";
  return dotted.find("." + std::string(pattern) + ".") != std::string::npos;
}

Exclusion sglang(const EngineUnit& unit, std::string_view prefix, Patterns patterns) {
  if (unit.kind == EngineUnit::Kind::kFused) {
    const Exclusion parts = of_parts(unit, [&](std::string_view name) {
      return std::ranges::any_of(patterns, [&](const auto& pattern) { return is_within(pattern, name); });
    });
    if (parts != Exclusion::kNone) return parts;
  }
  const bool by_path = unit.kind != EngineUnit::Kind::kExperts;
  const auto excludes = [&](const std::string& pattern) {
    return glob_match(pattern, prefix) || (by_path && is_within(pattern, prefix));
  };
  return std::ranges::any_of(patterns, excludes) ? Exclusion::kAll : Exclusion::kNone;
}

Exclusion trtllm(const EngineUnit& unit, std::string_view prefix, Patterns patterns) {
  const auto excludes = [&](const std::string& pattern) {
    if (glob_match(pattern, prefix)) return true;
    return unit.kind == EngineUnit::Kind::kFused &&
           std::ranges::any_of(unit.modules,
                               [&](const WeightModule* module) { return glob_match(pattern, module->name); });
  };
  return std::ranges::any_of(patterns, excludes) ? Exclusion::kAll : Exclusion::kNone;
}

}  // namespace

Exclusion exclusion_of(Engine engine, const EngineUnit& unit, const std::string& prefix,
                       std::span<const std::string> patterns) {
  switch (engine) {
    case Engine::kVllm:
      return vllm(unit, prefix, patterns);
    case Engine::kSglang:
      return sglang(unit, prefix, patterns);
    case Engine::kTrtllm:
      return trtllm(unit, prefix, patterns);
  }
  return Exclusion::kNone;
}

}  // namespace nibblecast
