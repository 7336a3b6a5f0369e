#include "pipeline/units.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "pipeline/group_parts.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

constexpr uint64_t kChunkBytes = 16 << 20;
constexpr uint64_t kLargestValue = 8;  // bytes; pieces of a tensor are cut at multiples of it

// What the forward pass takes in the last stage before the head's weight.
std::set<std::string> names_before_head(const Plan& plan) {
  std::set<std::string> names;
  if (!plan.model) return names;
  for (const PlainTensor& tensor : plan.model->table.globals.plain) names.insert(tensor.name);
  return names;
}

class UnitList {
 public:
  UnitList(const Checkpoint& source, const Plan& plan, const Work& work)
      : source_(source), plan_(plan), work_(work), before_head_(names_before_head(plan)), head_(head_weight(plan)) {}

  std::vector<Unit> make() {
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) add_stage(stage);
    return std::move(units_);
  }

 private:
  void add_stage(size_t stage) {
    const bool forward = is_forward(plan_, work_, stage);
    const ptrdiff_t begin = static_cast<ptrdiff_t>(units_.size());
    std::vector<uint32_t> kept = plan_.stages[stage].kept;
    if (forward && is_last(stage)) {
      // Of std, not std::ranges: clang before 16 cannot read what the latter returns.
      std::stable_partition(kept.begin(), kept.end(),
                            [&](uint32_t tensor) { return before_head_.contains(name(tensor)); });
    }
    for (const uint32_t tensor : kept)
      add_kept(stage, tensor, forward && (!is_last(stage) || is_of_head(name(tensor))));
    if (forward && is_last(stage) && plan_.model->table.tied_head) add_tied_head(stage);
    for (const PlannedGroup& group : plan_.stages[stage].groups) {
      const Tensor& first = source_.tensors()[group.linears[0].source.weight.tensor];
      add_group(stage, group, forward && (!is_last(stage) || is_of_head(first.name)));
    }
    if (forward) return;
    std::stable_sort(units_.begin() + begin, units_.end(), [](const Unit& a, const Unit& b) {
      return std::pair(a.reads[0].file, a.reads[0].begin) < std::pair(b.reads[0].file, b.reads[0].begin);
    });
  }

  bool is_last(size_t stage) const { return stage > 0 && !plan_.stages[stage].layer; }
  const std::string& name(uint32_t kept) const { return source_.tensors()[*plan_.tensors[kept].source].name; }
  bool is_of_head(const std::string& tensor) const {
    return tensor == head_ || before_head_.contains(tensor);
  }

  // The embedding, which was written with the first stage.
  void add_tied_head(size_t stage) {
    for (uint32_t tensor = 0; tensor < plan_.tensors.size(); ++tensor) {
      if (plan_.tensors[tensor].make == Make::kKeep && name(tensor) == head_)
        add_kept(stage, tensor, true, false);
    }
  }

  void add_kept(size_t stage, uint32_t tensor, bool forward) {
    add_kept(stage, tensor, forward, work_.write(tensor));
  }
  void add_kept(size_t stage, uint32_t tensor, bool forward, bool write) {
    const Tensor& from = source_.tensors()[*plan_.tensors[tensor].source];
    if (!write && !forward) return;
    for (uint64_t done = 0; done < from.size_bytes;) {
      Unit& chunk = chunk_at(stage, {from.shard, from.offset + done, 0});
      const uint64_t room = (kChunkBytes - chunk.reads[0].size_bytes) / kLargestValue * kLargestValue;
      const uint64_t size = std::min(room, from.size_bytes - done);
      chunk.forward |= forward;
      chunk.pieces.push_back({.tensor = tensor, .begin = done, .size_bytes = size, .write = write});
      chunk.reads[0].size_bytes += size;
      chunk.write |= write;
      done += size;
    }
  }

  // The last unit if bytes at `range` continue it and it has room, else a new one.
  Unit& chunk_at(size_t stage, FileRange range) {
    if (!units_.empty()) {
      Unit& last = units_.back();
      if (last.stage == stage && last.group == nullptr && last.reads[0].file == range.file &&
          last.reads[0].end() == range.begin && last.reads[0].size_bytes <= kChunkBytes - kLargestValue) {
        return last;
      }
    }
    Unit unit;
    unit.stage = stage;
    unit.reads = {range};
    units_.push_back(std::move(unit));
    return units_.back();
  }

  void add_group(size_t stage, const PlannedGroup& group, bool forward) {
    const PlannedLinear& first = group.linears[0];
    const bool write = work_.write(first.weight);
    if (!write && !forward) return;
    Unit unit;
    unit.stage = stage;
    unit.forward = forward;
    unit.write = write;
    unit.group = &group;
    const uint64_t all_rows = first.source.format.rows;
    const uint64_t rows = rows_at_once(plan_, group);
    if (rows == 0) {
      add_rows(std::move(unit));
      return;
    }
    for (uint64_t row = 0; row < all_rows; row += rows) {
      Unit part = unit;
      part.first_row = row;
      part.rows = std::min(rows, all_rows - row);
      add_rows(std::move(part));
    }
  }

  void add_rows(Unit unit) {
    MergedRanges merged = merge_ranges(group_ranges(source_, *unit.group, unit.first_row, unit.rows));
    unit.reads = std::move(merged.ranges);
    unit.places = std::move(merged.places);
    units_.push_back(std::move(unit));
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const Work& work_;
  const std::set<std::string> before_head_;
  const std::string head_;
  std::vector<Unit> units_;
};

}  // namespace

std::string head_weight(const Plan& plan) {
  if (!plan.model) return {};
  const ModelTable& table = plan.model->table;
  const WeightModule* const head =
      table.globals.find({.role = table.tied_head ? Role::kEmbedding : Role::kHead});
  return head == nullptr ? "" : head->name + ".weight";
}

bool is_forward(const Plan& plan, const Work& work, size_t stage) {
  if (!work.forward_from) return false;
  const std::optional<uint64_t> layer = plan.stages[stage].layer;
  return layer ? *layer >= *work.forward_from : stage > 0 || *work.forward_from == 0;
}

uint64_t written_bytes(const Plan& plan, const Unit& unit) {
  if (!unit.write) return 0;
  uint64_t bytes = 0;
  for (const Piece& piece : unit.pieces) bytes += piece.write ? piece.size_bytes : 0;
  if (unit.group == nullptr) return bytes;
  for (const PlannedLinear& linear : unit.group->linears) {
    for (const uint32_t index : {linear.weight, linear.block_scale}) {
      if (index == kNone) continue;
      bytes += output_rows(plan.tensors[index].out, unit.first_row, unit.rows).size_bytes;
    }
  }
  return bytes;
}

std::vector<Unit> list_units(const Checkpoint& source, const Plan& plan, const Work& work) {
  return UnitList(source, plan, work).make();
}

}  // namespace nibblecast
