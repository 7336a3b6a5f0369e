// model/stored.h - weights on their way into a forward pass, as the checkpoint stores them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <unordered_map>

#include "checkpoint/tensor.h"
#include "formats/stored_linear.h"

namespace nibblecast {

// A tensor as stored, in memory that the caller keeps alive during the call it is passed to.
struct StoredTensor {
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::span<const std::byte> bytes;  // may be unaligned
};
// By full name ("layers.3.attn.wq_a.weight", "layers.3.attn.wq_a.scale").
using StoredTensors = std::unordered_map<std::string, StoredTensor>;

// An MLP's weights in any format: a routed expert's, or a dense layer's only one. Without a gate w1 is empty.
struct StoredExpert {
  StoredLinear w1, w2, w3;  // gate [I, D], down [D, I], up [I, D]
};

}  // namespace nibblecast
