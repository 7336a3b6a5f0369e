// plan/inventory.h - a source checkpoint held against the model's table of tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/deepseek_v4_config.h"
#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

struct Inventory {
  // For each source tensor: the main layer it belongs to, -1 for the embedding, num_hidden_layers for all
  // that comes after the layers (norm, head, hc_head, mtp).
  std::vector<int64_t> layer_of;
};

// Checks every tensor: name, dtype, shape. Throws kBadInput naming file and tensor for a missing or
// ill-shaped one, kUnsupported for an unknown one, one that the releases store in another dtype (the message
// says what the checkpoint seems to be: BF16, or NVFP4 already), and for names that are not the official
// ones. `mtp.*` is not looked into.
Inventory take_inventory(const Checkpoint& source, const DeepseekV4Config& config);

}  // namespace nibblecast
