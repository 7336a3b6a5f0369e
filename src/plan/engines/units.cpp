#include "plan/engines/units.h"

#include <string_view>

namespace nibblecast {
namespace {

// What the module is fused into; empty: nothing.
std::string_view fused_name(const WeightModule& module) {
  switch (module.id.role) {
    case Role::kQ:
    case Role::kK:
    case Role::kV:
      return "qkv_proj";
    case Role::kQA:
    case Role::kKvA:
      return "fused_qkv_a_proj";
    case Role::kGate:
    case Role::kUp:
      return "gate_up_proj";
    case Role::kDeltaQkv:
    case Role::kDeltaZ:
      return "in_proj_qkvz";
    case Role::kDeltaB:
    case Role::kDeltaA:
      return "in_proj_ba";
    default:
      return "";
  }
}

EngineUnit unit_of(const WeightModule& module) {
  if (module.is_routed_expert()) return {EngineUnit::Kind::kExperts, experts_name(module)};
  const std::string_view fused = fused_name(module);
  if (fused.empty()) return {EngineUnit::Kind::kSingle, module.name};
  const std::string parent = module.name.substr(0, module.name.rfind('.') + 1);
  return {EngineUnit::Kind::kFused, parent + std::string(fused)};
}

void add_units(const LayerTable& table, std::vector<EngineUnit>& units) {
  for (const WeightModule& module : table.modules) {
    if (module.kind == ModuleKind::kEmbedding || module.stack != 0) continue;
    EngineUnit unit = unit_of(module);
    if (units.empty() || units.back().prefix != unit.prefix) units.push_back(std::move(unit));
    units.back().modules.push_back(&module);
  }
}

}  // namespace

std::vector<EngineUnit> engine_units(const ModelTable& table) {
  std::vector<EngineUnit> units;
  for (const LayerTable& layer : table.layers) add_units(layer, units);
  add_units(table.globals, units);
  if (table.tied_head) units.push_back({EngineUnit::Kind::kSingle, "lm_head"});
  return units;
}

}  // namespace nibblecast
