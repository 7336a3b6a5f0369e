#include "plan/inventory.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/fetch_ahead.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

class InventoryTaker {
 public:
  InventoryTaker(const Checkpoint& source, const Model& model, const TileSize& tiles, Storage storage)
      : source_(source),
        model_(model),
        tiles_(tiles),
        storage_(storage),
        known_(source.tensors().size(), false) {
    inventory_.layer_of.assign(source.tensors().size(), last());
  }

  Inventory take() {
    refuse_other_names();
    if (model_.table.tied_head) require_tied_head();
    take(model_.table.globals, last());
    for (uint64_t layer = 0; layer < model_.layers(); ++layer)
      take(model_.table.layers[layer], static_cast<int64_t>(layer));
    refuse_unknown();
    return std::move(inventory_);
  }

 private:
  int64_t last() const { return static_cast<int64_t>(model_.layers()); }

  // config.json ties the head to the embedding: a head that is there all the same must be it. Looked at are
  // rows here and there, which tell another matrix; transformers 5 would take that one, engines would not.
  void require_tied_head() const {
    constexpr uint64_t kRows = 64;
    const Tensor* const head = source_.find("lm_head.weight");
    if (head == nullptr) return;
    const WeightModule& module = *model_.table.globals.find({.role = Role::kEmbedding});
    const Tensor* const embedding = source_.find(module.name + ".weight");
    if (embedding == nullptr) return;  // which take() refuses
    bool same = head->dtype == embedding->dtype && head->shape == embedding->shape && !head->shape.empty();
    TensorReader reader(source_);
    const uint64_t rows = same ? head->shape[0] : 0, step = std::max<uint64_t>(1, rows / kRows);
    std::vector<TensorPart> looked_at;
    for (uint64_t row = 0; row < rows; row += step) {
      for (const Tensor* tensor : {head, embedding})
        looked_at.push_back({tensor, head->size_bytes / rows, row * (head->size_bytes / rows)});
    }
    fetch_ahead(source_, std::move(looked_at));
    for (uint64_t row = 0; same && row < rows; row += step) {
      std::vector<std::byte> own(head->size_bytes / rows), other(own.size());
      reader.read(*head, row * own.size(), own);
      reader.read(*embedding, row * own.size(), other);
      same = own == other;
    }
    if (same) return;
    throw Error(
        ErrorKind::kBadInput, source_.where(*head),
        "is not the embedding, though config.json ties both (tie_word_embeddings)",
        {.hint = "set tie_word_embeddings to false, if the head is the model's own; or remove the tensor"});
  }

  void take(const LayerTable& table, int64_t layer) {
    for (const WeightModule& module : table.modules) {
      if (module.stack != 0)
        take_stack(module, layer);
      else if (module.is_routed_expert() && source_.find(stack_of(table, module)) != nullptr)
        take_stacked(table, module, layer);
      else
        take(module, module.kind == ModuleKind::kEmbedding ? -1 : layer);
    }
    for (const PlainTensor& tensor : table.plain) take(tensor, layer);
  }

  void take(const WeightModule& module, int64_t layer) {
    const std::optional<LinearParts> parts = find_linear(source_, module.name, tiles_);
    if (!parts) refuse_missing(module.name + ".weight");
    const LinearFormat& format = parts->format;
    const bool is_other =
        format.stored == StoredFormat::kNvfp4 ||
        (module.quantized_in_release && (is_plain(format.stored) || format.stored == StoredFormat::kInt4));
    if (storage_ == Storage::kRelease && is_other) refuse_storage(*parts, module);
    if (Shape{format.rows, format.cols} != module.shape || parts->weight->shape.size() != 2) {
      throw Error(
          ErrorKind::kBadInput, source_.where(*parts->weight), "shape does not fit config.json",
          {.expected = fmt::format("{} {}", shape_text(module.shape), parts->container),
           .found = fmt::format("{} {}", dtype_name(parts->weight->dtype), shape_text(parts->weight->shape)),
           .hint = "is this the config of this checkpoint?"});
    }
    parts->for_parts([&](const Tensor& part) { know(part, layer); });
    if (parts->input_scale != nullptr) know(*parts->input_scale, layer);
    inventory_.linears.emplace(&module, source_of(source_, *parts));
  }

  // All of a layer's experts as one linear.
  void take_stack(const WeightModule& module, int64_t layer) {
    const std::optional<LinearParts> parts = find_stack(source_, module.name, module.stack, module.shape);
    if (!parts) refuse_missing(module.name + "_blocks");
    parts->for_parts([&](const Tensor& part) { know(part, layer); });
    inventory_.linears.emplace(&module, source_of(source_, *parts));
  }

  static const std::string& stack_of(const LayerTable& table, const WeightModule& expert) {
    return expert.id.role == Role::kDown ? table.stacks.down : table.stacks.gate_up;
  }

  // An expert's gate, up or down in the tensor that has those of all.
  void take_stacked(const LayerTable& table, const WeightModule& module, int64_t layer) {
    const Tensor& stack = *source_.find(stack_of(table, module));
    const uint64_t rows = module.shape[0], parts = module.id.role == Role::kDown ? 1 : 2;
    const Shape expected = {table.experts, parts * rows, module.shape[1]};
    if (stack.shape != expected) {
      throw Error(ErrorKind::kBadInput, source_.where(stack), "shape does not fit config.json",
                  {.expected = shape_text(expected),
                   .found = shape_text(stack.shape),
                   .hint = "is this the config of this checkpoint?"});
    }
    if (source_.find(module.name + ".weight") != nullptr) {
      throw Error(ErrorKind::kBadInput, source_.where(stack), "holds an expert's weight that is there twice",
                  {.found = module.name + ".weight", .hint = {}});
    }
    const uint64_t part = module.id.role == Role::kUp ? 1 : 0;
    const uint64_t first = (static_cast<uint64_t>(module.id.expert) * parts + part) * rows;
    const auto index = static_cast<uint32_t>(&stack - source_.tensors().data());
    know(stack, layer);
    inventory_.linears.emplace(&module, stacked_source(source_, index, first, rows));
  }

  void take(const PlainTensor& plain, int64_t layer) {
    const Tensor* found = source_.find(plain.name);
    if (found == nullptr) refuse_missing(plain.name);
    const bool is_integer = plain.kind == PlainKind::kInteger;
    const bool fits = is_integer ? found->dtype == Dtype::kI64 || found->dtype == Dtype::kI32
                                 : plain_format(found->dtype).has_value();
    if (!fits) {
      throw Error(ErrorKind::kUnsupported, source_.where(*found), "is not stored as this family's models are",
                  {.expected = is_integer ? "I64 or I32" : "BF16, F16 or F32",
                   .found = std::string(dtype_name(found->dtype)),
                   .hint = {}});
    }
    if (found->shape != plain.shape) {
      throw Error(ErrorKind::kBadInput, source_.where(*found), "shape does not fit config.json",
                  {.expected = shape_text(plain.shape),
                   .found = shape_text(found->shape),
                   .hint = "is this the config of this checkpoint?"});
    }
    know(*found, layer);
  }

  void know(const Tensor& tensor, int64_t layer) {
    const auto index = static_cast<size_t>(&tensor - source_.tensors().data());
    known_[index] = true;
    inventory_.layer_of[index] = layer;
  }

  [[noreturn]] void refuse_missing(const std::string& name) const {
    const std::string module = name.substr(0, name.rfind('.'));
    std::string others;
    for (const Tensor& tensor : source_.tensors()) {
      if (!tensor.name.starts_with(module + ".")) continue;
      others += (others.empty() ? "" : ", ") + printable(tensor.name) + " (" +
                std::string(dtype_name(tensor.dtype)) + ")";
    }
    throw Error(ErrorKind::kBadInput, {.file = source_.folder().string(), .tensor = name},
                "the checkpoint does not have it", {.found = others});
  }

  // What the whole checkpoint seems to be.
  [[noreturn]] void refuse_storage(const LinearParts& parts, const WeightModule& module) const {
    Detail detail{.found = std::string(dtype_name(parts.weight->dtype))};
    if (parts.format.stored == StoredFormat::kNvfp4) {
      const bool is_ours = source_.files().status(source_.folder() / "nibblecast.json").has_value();
      detail.expected = "a weight that is not NVFP4";
      detail.hint = std::string("this checkpoint is already NVFP4") +
                    (is_ours ? ", made by nibblecast" : "") +
                    "; `nibblecast dequantize` and `nibblecast convert` read it";
    } else {
      detail.expected = module.is_routed_expert() ? "MXFP4 or FP8" : "FP8";
      detail.hint = fmt::format(
          "this is a {} checkpoint, whose weights are not quantized; releases with FP8 and MXFP4 weights are "
          "read",
          parts.container);
    }
    throw Error(ErrorKind::kUnsupported, source_.where(*parts.weight),
                "is not stored as this family's releases store it", detail);
  }

  // The table's other names, or its own with something before them.
  void refuse_other_names() const {
    const std::string& embedding = model_.table.globals.modules.at(0).name;
    if (source_.find(embedding + ".weight") != nullptr) return;
    const ModuleIndex modules(model_.table);
    for (const Tensor& tensor : source_.tensors()) {
      const bool is_hub = modules.find(tensor.name) != nullptr;
      if (!is_hub && !tensor.name.ends_with("." + embedding + ".weight")) continue;
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  is_hub ? "this checkpoint has transformers' tensor names, which are not read"
                         : "the tensors' names have something before the official ones, which is not read",
                  {.expected = "official names, as " + embedding + ".weight",
                   .hint = "take the release, or rename the tensors"});
    }
  }

  bool is_cache_scale(const Tensor& tensor) const {
    return storage_ == Storage::kAny &&
           (tensor.name.ends_with(".k_scale") || tensor.name.ends_with(".v_scale"));
  }

  void refuse_unknown() const {
    for (size_t index = 0; index < known_.size(); ++index) {
      const Tensor& tensor = source_.tensors()[index];
      if (known_[index] || model_.table.passes_through(tensor.name) || is_cache_scale(tensor)) continue;
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  fmt::format("not a tensor of a {} model as config.json describes it", model_.model_type),
                  {.found = std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape),
                   .hint = "is this another model, another revision, or one with other tensor names?"});
    }
  }

  const Checkpoint& source_;
  const Model& model_;
  const TileSize& tiles_;
  const Storage storage_;
  Inventory inventory_;
  std::vector<bool> known_;
};

}  // namespace

Inventory take_inventory(const Checkpoint& source, const Model& model, const TileSize& tiles,
                         Storage storage) {
  return InventoryTaker(source, model, tiles, storage).take();
}

}  // namespace nibblecast
