#include "plan/inventory.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "base/integers.h"

namespace nibblecast {
namespace {

class InventoryTaker {
 public:
  InventoryTaker(const Checkpoint& source, const DeepseekV4Config& config)
      : source_(source), config_(config), known_(source.tensors().size(), false) {
    inventory_.layer_of.assign(source.tensors().size(), static_cast<int64_t>(config.num_hidden_layers));
  }

  Inventory take() {
    for (const ModelTensor& tensor : global_tensors(config_)) {
      take(tensor, tensor.name == "embed.weight" ? -1 : static_cast<int64_t>(config_.num_hidden_layers));
    }
    for (uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      for (const ModelTensor& tensor : layer_tensors(config_, layer))
        take(tensor, static_cast<int64_t>(layer));
    }
    refuse_unknown();
    return std::move(inventory_);
  }

 private:
  void take(const ModelTensor& tensor, int64_t layer) {
    switch (tensor.storage) {
      case Storage::kBF16:
        take(tensor.name, {Dtype::kBF16}, tensor.shape, layer);
        return;
      case Storage::kF32:
        take(tensor.name, {Dtype::kF32}, tensor.shape, layer);
        return;
      case Storage::kI64:
        take(tensor.name, {Dtype::kI64}, tensor.shape, layer);
        return;
      case Storage::kFp8Block:
        take_fp8_block(tensor, layer);
        return;
      case Storage::kExpert:
        take_expert(tensor, layer);
        return;
    }
  }

  void take_fp8_block(const ModelTensor& tensor, int64_t layer) {
    const uint64_t tile_rows = config_.tile_rows, tile_cols = config_.tile_cols;
    const Shape scale_shape = {ceil_div(tensor.shape[0], tile_rows), ceil_div(tensor.shape[1], tile_cols)};
    take(tensor.name + ".weight", {Dtype::kF8E4M3}, tensor.shape, layer);
    take(tensor.name + ".scale", {Dtype::kF8E8M0, Dtype::kF32}, scale_shape, layer);
  }

  // MXFP4 or, in Base releases, FP8 in blocks.
  void take_expert(const ModelTensor& tensor, int64_t layer) {
    const uint64_t out = tensor.shape[0], in = tensor.shape[1];
    if (source_.at(tensor.name + ".weight").dtype == Dtype::kF8E4M3) {
      take_fp8_block(tensor, layer);
      return;
    }
    take(tensor.name + ".weight", {Dtype::kI8}, {out, in / 2}, layer);
    take(tensor.name + ".scale", {Dtype::kF8E8M0}, {out, in / 32}, layer);
  }

  void take(const std::string& name, std::initializer_list<Dtype> dtypes, const Shape& shape, int64_t layer) {
    const Tensor& tensor = source_.at(name);
    bool dtype_fits = false;
    std::string expected;
    for (const Dtype dtype : dtypes) {
      dtype_fits |= tensor.dtype == dtype;
      expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    }
    if (!dtype_fits) {
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  "stored in a dtype that this tensor never has",
                  {.expected = expected, .found = std::string(dtype_name(tensor.dtype))});
    }
    if (tensor.shape != shape) {
      throw Error(ErrorKind::kBadInput, source_.where(tensor), "shape does not fit config.json",
                  {.expected = shape_text(shape),
                   .found = shape_text(tensor.shape),
                   .hint = "is this the config of this checkpoint?"});
    }
    const uint32_t index = static_cast<uint32_t>(&tensor - source_.tensors().data());
    known_[index] = true;
    inventory_.layer_of[index] = layer;
  }

  void refuse_unknown() {
    for (size_t index = 0; index < known_.size(); ++index) {
      const Tensor& tensor = source_.tensors()[index];
      if (known_[index] || tensor.name.starts_with("mtp.")) continue;
      throw Error(
          ErrorKind::kUnsupported, source_.where(tensor),
          "not a tensor of DeepSeek-V4 as config.json describes it",
          {.found = std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape),
           .hint = "is this another model, another revision, or one with transformers' tensor names?"});
    }
  }

  const Checkpoint& source_;
  const DeepseekV4Config& config_;
  Inventory inventory_;
  std::vector<bool> known_;
};

}  // namespace

Inventory take_inventory(const Checkpoint& source, const DeepseekV4Config& config) {
  return InventoryTaker(source, config).take();
}

}  // namespace nibblecast
