#include "model/decoder/dense_tensors.h"

#include <algorithm>
#include <cassert>

namespace nibblecast {

void DenseTensors::expect(const LayerTable& table, std::span<const Tensor> tensors, const TileSize& tiles,
                          Arena* device) {
  held_.clear();
  for (const Tensor& tensor : tensors) held_[tensor.name].tensor = tensor;
  if (device != nullptr) find_parts(table, tiles);
  for (const Tensor& tensor : tensors) {
    Held& held = held_.at(tensor.name);
    if (held.on_device)
      held.device = device->take<std::byte>(tensor.size_bytes);
    else
      held.host.resize(tensor.size_bytes);
  }
}

void DenseTensors::find_parts(const LayerTable& table, const TileSize& tiles) {
  const FindTensor find = [&](const std::string& name) -> const Tensor* {
    const auto found = held_.find(name);
    return found == held_.end() ? nullptr : &found->second.tensor;
  };
  const LocateTensor where = [](const Tensor& tensor) { return Where{.tensor = tensor.name}; };
  for (const WeightModule& module : table.modules) {
    if (module.streams()) continue;
    const std::optional<LinearParts> parts = find_linear(module.name, tiles, find, where);
    if (!parts) continue;  // whoever needs it says that it is missing
    held_.at(parts->weight->name).on_device = true;
    if (parts->scale != nullptr) held_.at(parts->scale->name).on_device = true;
  }
}

std::byte* DenseTensors::take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes) {
  Held& held = held_.at(name);
  assert(begin + bytes.size() <= held.tensor.size_bytes);
  if (held.on_device) return held.device + begin;
  std::ranges::copy(bytes, held.host.data() + begin);
  return nullptr;
}

StoredTensors DenseTensors::stored() const {
  StoredTensors stored;
  for (const auto& [name, held] : held_) {
    const std::byte* const bytes = held.on_device ? held.device : held.host.data();
    stored[name] = {held.tensor.dtype, held.tensor.shape, {bytes, held.tensor.size_bytes}};
  }
  return stored;
}

}  // namespace nibblecast
