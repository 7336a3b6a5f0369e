// plan/inventory.h - a source checkpoint held against a model's table of tensors.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "weights/container.h"

namespace nibblecast {

struct Inventory {
  // For each source tensor: the layer it belongs to, -1 for the embedding, Model::layers() for all that comes
  // after the layers (norm, head, draft layers).
  std::vector<int64_t> layer_of = {};
  std::unordered_map<const WeightModule*, LinearSource> linears = {};
};

// Checks every tensor: name, dtype, shape, and finds every module's weight, in whatever container. Throws
// kBadInput naming file and tensor for a missing or ill-shaped one, kUnsupported for an unknown one, for a
// weight that is NVFP4 already, for one that the family's releases quantize and this checkpoint does not, and
// for names of another spelling. What the table passes through is not looked into.
Inventory take_inventory(const Checkpoint& source, const Model& model, const TileSize& tiles);

}  // namespace nibblecast
