#include "model/dense_tensors.h"

#include <algorithm>
#include <cassert>

namespace nibblecast {

void DenseTensors::expect(std::span<const Tensor> tensors) {
  held_.clear();
  for (const Tensor& tensor : tensors)
    held_[tensor.name] = {.tensor = tensor, .host = std::vector<std::byte>(tensor.size_bytes)};
}

void DenseTensors::expect(std::span<const Tensor> tensors, Arena& device,
                          const std::function<bool(const Tensor&)>& on_device) {
  held_.clear();
  for (const Tensor& tensor : tensors) {
    Held& held = held_[tensor.name];
    held.tensor = tensor;
    held.on_device = on_device(tensor);
    if (held.on_device)
      held.device = device.take<std::byte>(tensor.size_bytes);
    else
      held.host.resize(tensor.size_bytes);
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
