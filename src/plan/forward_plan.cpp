#include "plan/forward_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "checkpoint/fetch_ahead.h"
#include "checkpoint/quantization.h"
#include "model/family.h"
#include "plan/inventory.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

std::string config_file(const Checkpoint& source) { return (source.folder() / "config.json").string(); }

class ForwardPlanner {
 public:
  ForwardPlanner(const Checkpoint& source, ComputeDtype dtype) : source_(source) {
    refuse_foreign_format(source);
    plan_.command = "evaluate";
    plan_.options.compute_dtype = dtype;
    plan_.model = std::make_shared<const Model>(read_model(source.config(), config_file(source)));
    inventory_ =
        take_inventory(source, *plan_.model, tile_size(source.config(), config_file(source)), Storage::kAny);
    plan_.stages.resize(plan_.layers() + 2);
  }

  Plan make() {
    require_forward_storage(source_, *plan_.model);
    for (const Tensor& tensor : source_.tensors()) {
      PlannedTensor& planned = plan_.tensors.emplace_back();
      planned.out = tensor;
      planned.source = static_cast<uint32_t>(plan_.tensors.size() - 1);
    }
    add_globals();
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer) add_layer(layer);
    for (Stage& stage : plan_.stages) std::ranges::sort(stage.kept);
    plan_.source_bytes = source_.data_bytes();
    for (uint64_t layer = 0; layer < plan_.layers(); ++layer)
      plan_.flops_per_token += layer_flops(*plan_.model, layer).sum();
    plan_.flops_per_token += head_flops(*plan_.model);
    return std::move(plan_);
  }

 private:
  const LinearSource& linear(const WeightModule& module) const { return inventory_.linears.at(&module); }

  void keep(const WeightModule& module, Stage& stage) {
    linear(module).for_parts([&](const Slice& part) { stage.kept.push_back(part.tensor); });
  }

  void keep(const PlainTensor& plain, Stage& stage) {
    stage.kept.push_back(static_cast<uint32_t>(&source_.at(plain.name) - source_.tensors().data()));
  }

  void add_globals() {
    const LayerTable& globals = plan_.model->table.globals;
    for (const WeightModule& module : globals.modules) {
      keep(module, module.kind == ModuleKind::kEmbedding ? plan_.stages.front() : plan_.stages.back());
    }
    for (const PlainTensor& plain : globals.plain) keep(plain, plan_.stages.back());
  }

  void add_layer(uint64_t layer) {
    const LayerTable& table = plan_.model->table.layers[layer];
    Stage& stage = plan_.stages[layer + 1];
    stage.layer = layer;
    std::map<uint64_t, PlannedGroup> mlps;
    for (const WeightModule& module : table.modules) {
      if (!module.streams()) {
        keep(module, stage);
        continue;
      }
      const auto expert = static_cast<uint64_t>(std::max(0, module.id.expert));
      PlannedGroup& group = mlps[expert];
      group.expert = expert;
      group.linears.push_back(
          {.source = linear(module), .module = &module, .weight = linear(module).weight.tensor});
    }
    for (const PlainTensor& plain : table.plain) keep(plain, stage);
    for (auto& [expert, group] : mlps) add_group(std::move(group), stage, plan_);
  }

  const Checkpoint& source_;
  Plan plan_;
  Inventory inventory_;
};

std::string words_of(const Model& model) {
  return fmt::format("{}, {} layers, {} tokens in the vocabulary", model.model_type, model.layers(),
                     model.vocabulary.size);
}

bool same_modules(const LayerTable& a, const LayerTable& b) {
  return a.top == b.top &&
         std::ranges::equal(a.modules, b.modules, [](const WeightModule& x, const WeightModule& y) {
           return x.id == y.id && x.shape == y.shape;
         });
}

// A layer's NVFP4 linears with an input_scale. Stacked experts are plain weights, and FP8's scale is another
// one.
std::vector<std::pair<const WeightModule*, LinearParts>> scaled_linears(const Checkpoint& source,
                                                                        const LayerTable& table) {
  const TileSize tiles = tile_size(source.config(), config_file(source));
  std::vector<std::pair<const WeightModule*, LinearParts>> linears;
  for (const WeightModule& module : table.modules) {
    const std::optional<LinearParts> parts = find_linear(source, module.name, tiles);
    if (parts && parts->format.stored == StoredFormat::kNvfp4 && parts->input_scale != nullptr)
      linears.emplace_back(&module, *parts);
  }
  return linears;
}

}  // namespace

void require_forward_storage(const Checkpoint& source, const Model& model) {
  if (const auto* const without = std::get_if<NoForwardPass>(&model.spec)) {
    throw Error(
        ErrorKind::kUnsupported, {.file = config_file(source)},
        fmt::format("{} models have no forward pass yet: it would need {}", model.model_type, without->lacks),
        {.hint = "what needs no activations works: --recipe w4a16_nvfp4, --input-scale 1.0, --amax FILE"});
  }
  const bool is_v4 = std::holds_alternative<DeepseekV4Config>(model.spec);
  for (const WeightModule& module : model.table.globals.modules) {
    const Tensor* const weight = source.find(module.name + ".weight");
    if (weight == nullptr) continue;  // that it is there was seen before
    if (is_v4 ? weight->dtype == Dtype::kBF16 : plain_format(weight->dtype).has_value()) continue;
    throw Error(ErrorKind::kUnsupported, source.where(*weight),
                "is not stored as the forward pass reads embedding and head",
                {.expected = is_v4 ? "BF16" : "BF16, F16 or F32",
                 .found = std::string(dtype_name(weight->dtype)),
                 .hint = "without a forward pass (--amax, --input-scale 1.0) it can be quantized"});
  }
}

Plan make_forward_plan(const Checkpoint& source, ComputeDtype dtype) {
  return ForwardPlanner(source, dtype).make();
}

void require_same_model(const Plan& plan, const Plan& other, const std::string& other_folder) {
  const Model &a = *plan.model, &b = *other.model;
  const auto refuse = [&](std::string expected, std::string found) {
    throw Error(ErrorKind::kBadInput, {.file = other_folder}, "is another model than the source",
                {.expected = std::move(expected), .found = std::move(found)});
  };
  if (a.family != b.family || a.layers() != b.layers() || a.vocabulary.size != b.vocabulary.size)
    refuse(words_of(a), words_of(b));
  for (uint64_t layer = 0; layer < a.layers(); ++layer) {
    if (!same_modules(a.table.layers[layer], b.table.layers[layer]))
      refuse("", fmt::format("other modules or shapes in layer {}", layer));
  }
  if (!same_modules(a.table.globals, b.table.globals)) refuse("", "another embedding or head");
}

bool computes_alike(const Model& a, const Model& b) {
  const auto* const own = std::get_if<DeepseekV4Config>(&a.spec);
  const auto* const other = std::get_if<DeepseekV4Config>(&b.spec);
  if (own == nullptr || other == nullptr) return a.spec == b.spec;
  DeepseekV4Config config = *other;  // how weights are stored is no matter
  config.expert_dtype = own->expert_dtype;
  config.tile_rows = own->tile_rows, config.tile_cols = own->tile_cols;
  config.bos_token_id = own->bos_token_id, config.eos_token_id = own->eos_token_id;
  return *own == config;
}

StoredInputScales input_scales_of(const Checkpoint& source, const Plan& plan, uint64_t layer,
                                  TensorReader& reader) {
  const auto linears = scaled_linears(source, plan.model->table.layers[layer]);
  std::vector<TensorPart> stored;
  for (const auto& [module, parts] : linears)
    stored.push_back({parts.input_scale, parts.input_scale->size_bytes});
  fetch_ahead(source, std::move(stored));
  StoredInputScales found;
  for (const auto& [module, parts] : linears)
    found.emplace_back(module, read_input_scale(source, parts, reader).value());
  return found;
}

bool has_input_scales(const Checkpoint& source, const Plan& plan) {
  return std::ranges::any_of(plan.model->table.layers,
                             [&](const LayerTable& layer) { return !scaled_linears(source, layer).empty(); });
}

}  // namespace nibblecast
