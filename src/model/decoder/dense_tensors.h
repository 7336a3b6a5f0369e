// model/decoder/dense_tensors.h - a layer's dense tensors on their way: pieces of bytes become whole tensors,
// in a device's memory or here.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "checkpoint/tensor.h"
#include "model/model_table.h"
#include "model/stored.h"

namespace nibblecast {

class DenseTensors {
 public:
  // Of the next layer. What products read, the values and scales of the table's linears, goes to `device`;
  // null: everything stays here.
  void expect(const LayerTable& table, std::span<const Tensor> tensors, const TileSize& tiles, Arena* device);
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
  void find_parts(const LayerTable& table, const TileSize& tiles);

  std::unordered_map<std::string, Held> held_;
};

}  // namespace nibblecast
