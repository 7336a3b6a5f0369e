#include "plan/inventory.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "base/integers.h"
#include "checkpoint/printable.h"

namespace nibblecast {
namespace {

class InventoryTaker {
 public:
  InventoryTaker(const Checkpoint& source, const DeepseekV4Config& config)
      : source_(source), config_(config), known_(source.tensors().size(), false) {
    inventory_.layer_of.assign(source.tensors().size(), static_cast<int64_t>(config.num_hidden_layers));
  }

  Inventory take() {
    refuse_other_names();
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
    if (present(tensor.name + ".weight").dtype == Dtype::kF8E4M3) {
      take_fp8_block(tensor, layer);
      return;
    }
    take(tensor.name + ".weight", {Dtype::kI8}, {out, in / 2}, layer);
    take(tensor.name + ".scale", {Dtype::kF8E8M0}, {out, in / 32}, layer);
  }

  void take(const std::string& name, std::initializer_list<Dtype> dtypes, const Shape& shape, int64_t layer) {
    const Tensor& tensor = present(name);
    bool dtype_fits = false;
    std::string expected;
    for (const Dtype dtype : dtypes) {
      dtype_fits |= tensor.dtype == dtype;
      expected += (expected.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    }
    if (!dtype_fits) refuse_dtype(tensor, expected);
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

  // A tensor of the table; where it is missing, the message says what its module has instead.
  const Tensor& present(const std::string& name) const {
    if (const Tensor* tensor = source_.find(name)) return *tensor;
    const std::string module = name.substr(0, name.rfind('.') + 1);
    std::string others;
    for (const Tensor& tensor : source_.tensors()) {
      if (module.empty() || !tensor.name.starts_with(module)) continue;
      others += (others.empty() ? "" : ", ") + printable(tensor.name) + " (" +
                std::string(dtype_name(tensor.dtype)) + ")";
    }
    const bool has_other_scales = others.find(".weight_scale") != std::string::npos;
    throw Error(has_other_scales ? ErrorKind::kUnsupported : ErrorKind::kBadInput,
                {.file = source_.folder().string(), .tensor = name}, "the checkpoint does not have it",
                {.found = others});
  }

  [[noreturn]] void refuse_dtype(const Tensor& tensor, const std::string& expected) const {
    const Detail detail{
        .expected = expected, .found = std::string(dtype_name(tensor.dtype)), .hint = storage_hint(tensor)};
    throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                "is not stored as DeepSeek-V4's releases store it", detail);
  }

  // What the whole checkpoint seems to be.
  std::string storage_hint(const Tensor& tensor) const {
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    if (source_.find(module + ".weight_scale_2") != nullptr) {
      const bool is_ours = source_.files().status(source_.folder() / "nibblecast.json").has_value();
      return std::string("this checkpoint is already NVFP4") + (is_ours ? ", made by nibblecast" : "") +
             "; `nibblecast dequantize` and `nibblecast convert` read it";
    }
    const bool is_plain =
        tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF16 || tensor.dtype == Dtype::kF32;
    if (is_plain && tensor.name.ends_with(".weight") && source_.find(module + ".scale") == nullptr) {
      return "this is a " + std::string(dtype_name(tensor.dtype)) +
             " checkpoint, whose weights are not quantized; releases with FP8 and MXFP4 weights are read";
    }
    return {};
  }

  // transformers' names, or official ones with something before them.
  void refuse_other_names() const {
    constexpr const char* kEmbedding = "embed.weight";
    if (source_.find(kEmbedding) != nullptr) return;
    for (const Tensor& tensor : source_.tensors()) {
      const auto holds = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
      const bool is_hub =
          tensor.name == "model.embed_tokens.weight" || holds(".self_attn.") || holds(".mlp.");
      if (!is_hub && !tensor.name.ends_with(std::string(".") + kEmbedding)) continue;
      throw Error(ErrorKind::kUnsupported, source_.where(tensor),
                  is_hub ? "this checkpoint has transformers' tensor names, which are not read"
                         : "the tensors' names have something before the official ones, which is not read",
                  {.expected = "official names, as layers.0.attn.wq_a.weight and embed.weight",
                   .hint = "take the release, or rename the tensors"});
    }
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
