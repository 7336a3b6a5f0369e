// model/dense_tensors.h - a layer's dense tensors on their way: pieces of bytes become whole tensors, in a
// device's memory or here.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "checkpoint/tensor.h"
#include "model/stored.h"

namespace nibblecast {

class DenseTensors {
 public:
  // Those of the next layer, kept here.
  void expect(std::span<const Tensor> tensors);
  // The same; those for which on_device(tensor) go to the device's memory in `device`.
  void expect(std::span<const Tensor> tensors, Arena& device,
              const std::function<bool(const Tensor&)>& on_device);
  // Where bytes [begin, begin + bytes.size()) of `name` go on the device; null: they were kept here.
  std::byte* take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes);
  StoredTensors stored() const;

 private:
  struct Held {
    Tensor tensor = {};
    bool on_device = false;
    std::byte* device = nullptr;
    std::vector<std::byte> host = {};
  };
  std::unordered_map<std::string, Held> held_;
};

}  // namespace nibblecast
