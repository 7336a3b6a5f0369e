// plan/layout.h - where the tensors of an output lie: the source's shards, and in each the source's order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

struct OutputTensor {
  Make make = Make::kKeep;
  std::string name;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::optional<StackPart> part = {};  // all parts of a stack stand in place of one source tensor, in order
  uint32_t source = kNone;             // of a kKeep that stands in place of another: whose bytes it has
  bool reciprocal = false;             // PlannedTensor's
};

// By source tensor.
struct Replacements {
  std::vector<std::vector<OutputTensor>> in_place;  // what stands where it stood; nothing: it is left out
  std::vector<std::vector<OutputTensor>> scalars;   // F32 scalars that come with it
};

// Fills tensors, shards and byte counts of `plan`. A shard's data begins with its scalars; then follows, in
// the source's order, what replaces each tensor. Readers map tensors in place, so where that order would
// leave one misaligned, the shard is ordered by element size instead. Names must be distinct (kBadInput).
void lay_out(const Checkpoint& source, const Replacements& replacements, Plan& plan);

// Of a plan that is laid out: name -> index into its tensors.
std::unordered_map<std::string, uint32_t> indices_by_name(const Plan& plan);

}  // namespace nibblecast
