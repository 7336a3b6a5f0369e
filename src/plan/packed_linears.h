// plan/packed_linears.h - the quantized weights of a checkpoint, found by their containers alone
// (weights/container.h): of any model, draft layers too.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "plan/linear.h"

namespace nibblecast {

struct PackedLinear {
  SourceLinear linear;
  uint32_t input_scale = kNone;  // X.input_scale, where there is one
};

// In the source's order. Every tensor of a dtype that only quantized weights have belongs to one of them, or:
// Error kUnsupported, naming it; also as refuse_foreign_format() (checkpoint/quantization.h), and as
// find_linear().
std::vector<PackedLinear> find_packed_linears(const Checkpoint& source);

}  // namespace nibblecast
