#include "model/model_table.h"

#include <algorithm>

namespace nibblecast {

const WeightModule* LayerTable::find(const ModuleId& id) const {
  const auto found = std::ranges::find(modules, id, &WeightModule::id);
  return found == modules.end() ? nullptr : &*found;
}

const PlainTensor* LayerTable::find_plain(Role role) const {
  const auto found = std::ranges::find(plain, role, [](const PlainTensor& each) { return each.id.role; });
  return found == plain.end() ? nullptr : &*found;
}

uint64_t LayerTable::channels_of(size_t tap) const {
  const auto found = std::ranges::find(modules, tap, &WeightModule::tap);
  return found == modules.end() ? 0 : found->shape[1];
}

std::string experts_name(const WeightModule& expert) {
  const std::string number = "." + std::to_string(expert.id.expert) + ".";
  return expert.name.substr(0, expert.name.rfind(number));
}

uint64_t ModelTable::most_experts() const {
  uint64_t most = 0;
  for (const LayerTable& layer : layers) most = std::max(most, layer.experts);
  return most;
}

bool ModelTable::passes_through(std::string_view name) const {
  return std::ranges::any_of(passed_through, [&](const auto& prefix) { return name.starts_with(prefix); });
}

ModuleIndex::ModuleIndex(const ModelTable& table) {
  const auto add = [&](const LayerTable& layer) {
    for (const WeightModule& module : layer.modules) {
      by_name_.emplace(module.name, &module);
      if (!module.hub_name.empty()) by_name_.emplace(module.hub_name, &module);
    }
  };
  add(table.globals);
  for (const LayerTable& layer : table.layers) add(layer);
}

const WeightModule* ModuleIndex::find(std::string_view name) const {
  constexpr std::string_view kWeight = ".weight";
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

}  // namespace nibblecast
