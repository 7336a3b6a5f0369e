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

// Which weights may be there.
enum class Storage : uint8_t {
  kRelease,  // what can be quantized: plain, FP8, MXFP4, and what the family's releases quantize is so here
  kAny,      // every container, and scales of a KV cache beside them
};

// Checks every tensor: name, dtype, shape, and finds every module's weight, in whatever container. Throws
// kBadInput naming file and tensor for a missing or ill-shaped one, kUnsupported for an unknown one and for
// names of another spelling; with Storage::kRelease also for a weight that is NVFP4 already and for one that
// the family's releases quantize and this checkpoint does not. What the table passes through is not looked
// into.
Inventory take_inventory(const Checkpoint& source, const Model& model, const TileSize& tiles,
                         Storage storage = Storage::kRelease);

}  // namespace nibblecast
