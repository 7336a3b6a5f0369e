// model/families/line_table.h - the table of a model as lines of text: a line a tensor, its shape in sizes
// that have names. For families whose forward pass is not built: what tensors they have and which linears
// read the same input is all that there is to say of them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "model/model_table.h"

namespace nibblecast {

enum class Line : uint8_t {
  kLinear,
  kRouter,
  kExpert,  // a linear of each routed expert: '#' in its name is the expert's number
  kStack,   // linears of all routed experts in one tensor (WeightModule::stack)
  kVector,  // and what else is no linear's weight
  kTable,
  kFilter,
  // Where a checkpoint may have the experts' gates and ups, and their downs, in one tensor (ExpertStacks).
  kStackedGateUp,
  kStackedDown,
  kUnused,  // may be there, and nobody reads it: passed through
};

struct TableLine {
  Line line = Line::kLinear;
  // Within the layer; of a linear without ".weight".
  std::string_view name = {};
  // "2*inner, hidden": sums of products of numbers and sizes.
  std::string_view shape = {};
  Role role = Role::kOther;
  // Of a linear: its tap; after '<' the norm, within the layer and without ".weight", whose output it reads:
  // "attn.in<input_layernorm".
  std::string_view tap = {};
  bool bias = false;    // NAME.bias is there too
  bool shared = false;  // of a shared expert, or of an MLP beside experts
};

// Of one layer, by name. "experts" and "top" are those of LayerTable.
using Sizes = std::map<std::string_view, uint64_t>;

// Adds lines to tables of one model.
class LineTables {
 public:
  // `plus_one`: norms are stored less one.
  explicit LineTables(bool plus_one) : plus_one_(plus_one) {}

  // `prefix` stands in front of every name: "model.layers.3.". Error kInternal: a size has no value, or a
  // shape is no such text.
  void add(std::span<const TableLine> lines, const Sizes& sizes, const std::string& prefix, int32_t layer,
           LayerTable& table) const;

 private:
  bool plus_one_;
};

}  // namespace nibblecast
