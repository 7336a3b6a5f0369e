// plan/linear.h - what stands in an output for one linear of the source.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/checkpoint.h"
#include "plan/layout.h"
#include "plan/plan.h"

namespace nibblecast {

// Where the source has it: indices into its tensors(), kNone where it has no such tensor.
struct SourceLinear {
  std::string module;  // "layers.3.attn.wq_a"
  uint32_t weight = kNone, scale = kNone, scale_2 = kNone;
};

// How it is to be made. `dtype` is that of a kWideWeight, or of a kFp8BlockWeight's scales; `tile_rows` and
// `tile_cols` belong to the latter. With `quantize_input` an input_scale is planned.
struct LinearMake {
  Make make = Make::kKeep;
  Dtype dtype = Dtype::kBF16;
  bool quantize_input = false;
  uint64_t tile_rows = 128, tile_cols = 128;
};

// [out, in], whatever the stored dtype.
Shape logical_shape(const Checkpoint& source, const SourceLinear& linear);

// Says in `replacements` what stands in place of the linear's tensors.
void replace_linear(const Checkpoint& source, const SourceLinear& linear, const LinearMake& make,
                    Replacements& replacements);

// Of a plan that is laid out: the linear with its tensors there; `method` and `share` are the caller's.
PlannedLinear planned_linear(const SourceLinear& linear,
                             const std::unordered_map<std::string, uint32_t>& indices);

// Adds a group to a stage, and its size to the plan's largest.
void add_group(const Checkpoint& source, PlannedGroup group, Stage& stage, Plan& plan);

// JSON documents of the output that hang on its tensors alone: the index.
void index_output(const Checkpoint& source, Plan& plan);

}  // namespace nibblecast
