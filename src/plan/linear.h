// plan/linear.h - what stands in an output for one linear of the source.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>

#include "checkpoint/checkpoint.h"
#include "plan/dialects/dialect.h"
#include "plan/layout.h"
#include "plan/plan.h"

namespace nibblecast {

// A linear of the source.
struct SourceLinear {
  std::string module = {};  // "layers.3.attn.wq_a"
  LinearSource source = {};
  uint64_t stack = 0;  // WeightModule's: made under a stack's names, each matrix transposed
};

// How it is to be made. `dtype` is that of a kWideWeight, or of a kFp8BlockWeight's scales; `tile_rows` and
// `tile_cols` belong to the latter. With `quantize_input` an input_scale is planned.
struct LinearMake {
  Make make = Make::kKeep;
  Dtype dtype = Dtype::kBF16;
  bool quantize_input = false;
  uint64_t tile_rows = 128, tile_cols = 128;
};

// Says in `replacements` what stands in place of the linear's tensors, under which names.
void replace_linear(const SourceLinear& linear, const LinearMake& make, const LinearNames& dialect,
                    Replacements& replacements);

// Of a plan that is laid out: the linear with its tensors there; `module`, `method` and `share` are the
// caller's.
PlannedLinear planned_linear(const SourceLinear& linear, const LinearNames& dialect,
                             const std::unordered_map<std::string, uint32_t>& indices);

// Every tensor stands for itself.
Replacements keep_all(const Checkpoint& source);

// Values that stand for themselves can be made a few rows at a time, however large the tensor: rows of the
// group's only linear that are worked on at once, a multiple of the tile's. 0: whole linears.
uint64_t rows_at_once(const Plan& plan, const PlannedGroup& group);

// Of a plan that is laid out: one stage with all that is kept, and a group for each of `linears`.
void add_only_stage(const Checkpoint& source, std::span<const PlannedLinear> linears, Plan& plan);

// Adds a group to a stage, and what of it is in memory at once to the plan's largest.
void add_group(PlannedGroup group, Stage& stage, Plan& plan);

// Bytes of the output's tensor `out`, which belongs to a linear of `all_rows` rows: of rows
// [first_row, first_row + rows), or whole where rows is 0. From the shard's begin.
struct OutputRange {
  uint64_t begin = 0, size_bytes = 0;
};
OutputRange output_rows(const Tensor& out, uint64_t first_row, uint64_t rows);

// JSON documents of the output that hang on its tensors alone: the index.
void index_output(const Checkpoint& source, Plan& plan);

}  // namespace nibblecast
