#include "plan/work_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr const char *kCachedKeys = "attn.k", *kCachedValues = "attn.v";  // taps of all decoders

class WorkOrder {
 public:
  WorkOrder(const Checkpoint& source, const Decisions& made, Plan& plan)
      : source_(source),
        made_(made),
        names_(dialect_of(plan.options.format).names),
        table_(plan.model->table),
        plan_(plan) {}

  void make() {
    plan_.stages.resize(plan_.layers() + 2);
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer) plan_.stages[layer + 1].layer = layer;
    const auto indices = indices_by_name(plan_);
    size_t first = 0;  // module of the layer
    for (; first < made_.modules.size() && made_.modules[first].module->id.layer < 0; ++first)
      add_lone(first, indices);
    for (const SourceLinear& draft : made_.drafts)
      add_group({.expert = {}, .linears = {planned_linear(draft, names_, indices)}}, plan_.stages.back(),
                plan_);
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer) {
      const size_t count = table_.layers[layer].modules.size();
      add_dense_groups(layer, first, count, indices);
      add_mlps(layer, first, count, indices);
      first += count;
    }
    for (const auto& [module, name] : made_.cache_scales) {
      plan_.stages[static_cast<size_t>(module->id.layer) + 1].cache_scales.push_back(
          {indices.at(name), module->id.role == Role::kK ? kCachedKeys : kCachedValues});
    }
    add_kept();
  }

 private:
  // What no group has.
  void add_kept() {
    std::vector<bool> in_group(plan_.tensors.size());
    for (const Stage& stage : plan_.stages) {
      for (const PlannedGroup& group : stage.groups) {
        for (const PlannedLinear& linear : group.linears) {
          for (const uint32_t index : {linear.weight, linear.block_scale})
            if (index != kNone) in_group[index] = true;
        }
      }
    }
    std::vector<uint32_t> kept(source_.tensors().size(), kNone);
    for (uint32_t index = 0; index < plan_.tensors.size(); ++index) {
      const PlannedTensor& tensor = plan_.tensors[index];
      if (tensor.make == Make::kKeep && !in_group[index]) kept[*tensor.source] = index;
    }
    for (uint32_t source = 0; source < kept.size(); ++source) {
      if (kept[source] != kNone) stage_of(source).kept.push_back(kept[source]);
    }
  }

  Stage& stage_of(uint32_t source) {
    return plan_.stages[static_cast<size_t>(made_.inventory.layer_of[source] + 1)];
  }

  using Indices = std::unordered_map<std::string, uint32_t>;

  PlannedLinear linear_of(size_t module, const Indices& indices) const {
    PlannedLinear linear = planned_linear(made_.linears[module].linear, names_, indices);
    linear.module = made_.modules[module].module;
    linear.method = requantize_method(made_.modules[module].recipe.method);
    linear.try_cast = made_.linears[module].try_cast;
    if (made_.linears[module].make == Make::kKeep)
      linear.weight_scale = linear.input_scale = kNone;  // copied as they are
    return linear;
  }

  void add_lone(size_t module, const Indices& indices) {
    if (made_.linears[module].make == Make::kKeep) return;
    add_group({.expert = {}, .linears = {linear_of(module, indices)}},
              stage_of(made_.linears[module].linear.source.weight.tensor), plan_);
  }

  // Linears of one tap get a common scale: a group for each, then what shares nothing.
  void add_dense_groups(uint64_t layer, size_t first, size_t count, const Indices& indices) {
    const auto shares = [](Make make) { return make == Make::kNvfp4Weight || make == Make::kFp8Weight; };
    for (uint16_t tap = 0; tap < table_.layers[layer].taps.size(); ++tap) {
      PlannedGroup group;
      for (size_t module = first; module < first + count; ++module) {
        if (made_.modules[module].module->streams() || made_.modules[module].module->tap != tap) continue;
        if (!shares(made_.linears[module].make)) continue;
        group.linears.push_back(linear_of(module, indices));
        // NVFP4 and FP8 linears of a group have each their own common amax.
        group.linears.back().share = made_.linears[module].make == Make::kNvfp4Weight ? 0 : 1;
      }
      if (group.linears.empty()) continue;
      check_methods(group);
      add_group(std::move(group), plan_.stages[layer + 1], plan_);
    }
    for (size_t module = first; module < first + count; ++module)
      if (!made_.modules[module].module->streams() && !shares(made_.linears[module].make))
        add_lone(module, indices);
  }

  // Kept ones too: the forward pass takes them one by one.
  void add_mlps(uint64_t layer, size_t first, size_t count, const Indices& indices) {
    PlannedGroup group;
    const auto finish = [&] {
      if (group.linears.empty()) return;
      check_methods(group);
      add_group(std::move(group), plan_.stages[layer + 1], plan_);
      group = {};
    };
    for (size_t module = first; module < first + count; ++module) {
      const WeightModule& found = *made_.modules[module].module;
      if (!found.streams()) continue;
      const auto expert = static_cast<uint64_t>(std::max(0, found.id.expert));
      if (group.expert && *group.expert != expert) finish();
      group.expert = expert;
      group.linears.push_back(linear_of(module, indices));
      group.linears.back().share = found.id.role == Role::kDown ? 1 : 0;
    }
    finish();
  }

  // Linears that share their amax share their scale too, which only one method gives.
  void check_methods(const PlannedGroup& group) const {
    for (const PlannedLinear& linear : group.linears) {
      const auto first = std::ranges::find(group.linears, linear.share, &PlannedLinear::share);
      if (plan_.tensors[first->weight].make == plan_.tensors[linear.weight].make &&
          first->method == linear.method)
        continue;
      throw Error(ErrorKind::kUnsupported,
                  {.file = made_.recipe.origin, .tensor = linear.module->name + ".weight"},
                  fmt::format("shares its scale with {}, to which the recipe gives another format or "
                              "weight_method",
                              first->module->name),
                  {.hint = "give both the same one"});
    }
  }

  const Checkpoint& source_;
  const Decisions& made_;
  const LinearNames& names_;
  const ModelTable& table_;
  Plan& plan_;
};

}  // namespace

void order_work(const Checkpoint& source, const Decisions& decisions, Plan& plan) {
  WorkOrder(source, decisions, plan).make();
}

}  // namespace nibblecast
