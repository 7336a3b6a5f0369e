// pipeline/units.h - a run's work cut into steps: what is read at once, and what becomes of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "pipeline/extents.h"
#include "pipeline/reader.h"
#include "plan/plan.h"

namespace nibblecast {

// Bytes [begin, begin + size_bytes) of a kept tensor.
struct Piece {
  uint32_t tensor = 0;  // index into Plan::tensors
  uint64_t begin = 0, size_bytes = 0;
  bool write = false;
};

// A chunk of kept bytes that are contiguous in the source, or a group of linears, or rows of a lone one.
struct Unit {
  size_t stage = 0;
  bool forward = false;       // the forward pass takes it, or some of its pieces
  bool write = false;         // the output does (a chunk: some of its pieces)
  std::vector<Piece> pieces;  // of a chunk
  const PlannedGroup* group = nullptr;
  uint64_t first_row = 0, rows = 0;  // of the group's only linear; 0 rows: whole linears
  ReadUnit reads;
  std::vector<Place> places;  // as group_ranges() of pipeline/group_parts.h has them

  bool is_mlp() const { return group != nullptr && group->expert; }  // one that streams by
  uint64_t size_bytes() const {
    uint64_t bytes = 0;
    for (const FileRange& range : reads) bytes += range.size_bytes;
    return bytes;
  }
};

// What is to be done.
struct Work {
  std::function<bool(uint32_t tensor)> write;  // whether this tensor of the output is still to be made
  std::optional<uint64_t> forward_from;        // the forward pass's first layer; 0: and the embedding
};

// Whether the forward pass goes through stage `stage`: the embedding, a layer, or the head, which is in the
// last one.
bool is_forward(const Plan& plan, const Work& work, size_t stage);

// The tensor that is multiplied with what leaves the last layer; empty where the plan knows no model.
std::string head_weight(const Plan& plan);

// Bytes of weights, block scales and kept tensors that the output gets of it.
uint64_t written_bytes(const Plan& plan, const Unit& unit);

// In the order of work: by stage. The forward pass needs a layer's other tensors first and its MLPs
// ascending, and what turns streams into logits before the head's weight (which may be the embedding, read
// once more); without one, the order of the files is best.
std::vector<Unit> list_units(const Checkpoint& source, const Plan& plan, const Work& work);

}  // namespace nibblecast
