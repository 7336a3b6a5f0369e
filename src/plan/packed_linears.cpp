#include "plan/packed_linears.h"

#include <fmt/format.h>

#include <string_view>

#include "base/error.h"
#include "checkpoint/quantization.h"

namespace nibblecast {
namespace {

bool is_packed(Dtype dtype) {
  return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E8M0 || dtype == Dtype::kI8 || dtype == Dtype::kU8 ||
         dtype == Dtype::kF4;
}

}  // namespace

std::vector<PackedLinear> find_packed_linears(const Checkpoint& source) {
  refuse_foreign_format(source);
  const TileSize tiles = tile_size(source.config(), (source.folder() / "config.json").string());
  std::vector<PackedLinear> found;
  std::vector<bool> taken(source.tensors().size());
  const auto take = [&](const Tensor* tensor) {
    if (tensor != nullptr) taken[static_cast<size_t>(tensor - source.tensors().data())] = true;
  };
  for (const Tensor& tensor : source.tensors()) {
    const std::string module(module_of_weight(tensor.name));
    const bool is_words = tensor.dtype == Dtype::kI32 && tensor.name != module + ".weight";
    if (module.empty() || (!is_packed(tensor.dtype) && !is_words)) continue;
    const LinearParts parts = find_linear(source, module, tiles).value();
    for (const Tensor* part : {parts.weight, parts.scale, parts.scale_2, parts.input_scale}) take(part);
    found.push_back({.linear = {.module = module, .source = source_of(source, parts)}});
    if (parts.input_scale != nullptr)
      found.back().input_scale = static_cast<uint32_t>(parts.input_scale - source.tensors().data());
  }
  for (uint32_t index = 0; index < taken.size(); ++index) {
    const Tensor& tensor = source.tensors()[index];
    if (taken[index] || !is_packed(tensor.dtype)) continue;
    throw Error(ErrorKind::kUnsupported, source.where(tensor),
                fmt::format("is {}, but neither a weight nor its scale", dtype_name(tensor.dtype)),
                {.hint = "weights are named X.weight, their scales X.scale or X.weight_scale"});
  }
  return found;
}

}  // namespace nibblecast
