// plan/forward_plan.h - what a forward pass reads of a checkpoint whose weights are stored in any format,
// ours and others', in the order of work. Nothing is made of it.
#pragma once

#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/forward_pass.h"
#include "plan/options.h"
#include "plan/plan.h"

namespace nibblecast {

// kUnsupported: the family has no forward pass, or, naming the tensor, embedding or head are stored as none
// reads them.
void require_forward_storage(const Checkpoint& source, const Model& model);

// A Plan whose `model`, `tensors` (each the source's own), `stages` and options.compute_dtype say what is
// read; all else is empty. Errors as require_forward_storage(), take_inventory() and
// refuse_foreign_format().
Plan make_forward_plan(const Checkpoint& source, ComputeDtype dtype);

// kBadInput, naming `other`, what is expected and found, unless both compute alike: the same layers, modules
// and shapes, and the same vocabulary.
void require_same_model(const Plan& plan, const Plan& other, const std::string& other_folder);

// Whether both compute the same of the same weights: RoPE, eps, heads, clamps...
bool computes_alike(const Model& a, const Model& b);

// The scales that the inputs of a layer's linears are rounded with: of NVFP4 linears with an input_scale.
struct LayerInputScales {
  InputScales modules = {};  // of all
  struct Mlp {
    float in = 0, mid = 0;  // of gate and up, of down; 0: not rounded
  };
  std::vector<Mlp> mlps = {};  // of those that stream by
};
// As the checkpoint has them, in the order of the table (plan/input_scale_rule.h makes the others of them).
// Errors as read_input_scale().
using StoredInputScales = std::vector<std::pair<const WeightModule*, float>>;
StoredInputScales input_scales_of(const Checkpoint& source, const Plan& plan, uint64_t layer,
                                  TensorReader& reader);
// Whether any linear of the model has one.
bool has_input_scales(const Checkpoint& source, const Plan& plan);

}  // namespace nibblecast
