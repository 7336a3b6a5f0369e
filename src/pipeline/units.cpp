#include "pipeline/units.h"

#include <algorithm>
#include <utility>

namespace nibblecast {
namespace {

constexpr uint64_t kChunkBytes = 16 << 20;

FileRange range_of(const Tensor& tensor) { return {tensor.shard, tensor.offset, tensor.size_bytes}; }

class UnitList {
 public:
  UnitList(const Checkpoint& source, const Plan& plan, const Work& work)
      : source_(source), plan_(plan), work_(work) {}

  std::vector<Unit> make() {
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) add_stage(stage);
    return std::move(units_);
  }

 private:
  void add_stage(size_t stage) {
    const bool forward = is_forward(plan_, work_, stage);
    const ptrdiff_t begin = static_cast<ptrdiff_t>(units_.size());
    for (const uint32_t tensor : plan_.stages[stage].kept) add_kept(stage, tensor, forward);
    for (const PlannedExpert& expert : plan_.stages[stage].experts) add_expert(stage, expert, forward);
    if (forward) return;
    std::stable_sort(units_.begin() + begin, units_.end(), [](const Unit& a, const Unit& b) {
      return std::pair(a.reads[0].file, a.reads[0].begin) < std::pair(b.reads[0].file, b.reads[0].begin);
    });
  }

  void add_kept(size_t stage, uint32_t tensor, bool forward) {
    const Tensor& from = source_.tensors()[*plan_.tensors[tensor].source];
    const bool write = work_.write(tensor);
    if (!write && !forward) return;
    for (uint64_t done = 0; done < from.size_bytes;) {
      Unit& chunk = chunk_at(stage, {from.shard, from.offset + done, 0}, forward);
      const uint64_t size = std::min(kChunkBytes - chunk.reads[0].size_bytes, from.size_bytes - done);
      chunk.pieces.push_back({.tensor = tensor, .begin = done, .size_bytes = size, .write = write});
      chunk.reads[0].size_bytes += size;
      chunk.write |= write;
      done += size;
    }
  }

  // The last unit if bytes at `range` continue it and it has room, else a new one.
  Unit& chunk_at(size_t stage, FileRange range, bool forward) {
    if (!units_.empty()) {
      Unit& last = units_.back();
      if (last.stage == stage && last.expert == nullptr && last.reads[0].file == range.file &&
          last.reads[0].end() == range.begin && last.reads[0].size_bytes < kChunkBytes) {
        return last;
      }
    }
    Unit unit;
    unit.stage = stage;
    unit.forward = forward;
    unit.reads = {range};
    units_.push_back(std::move(unit));
    return units_.back();
  }

  void add_expert(size_t stage, const PlannedExpert& expert, bool forward) {
    const bool write = work_.write(expert.linears[0].weight);
    if (!write && !forward) return;
    std::array<FileRange, 6> ranges;
    for (size_t slot = 0; slot < 3; ++slot) {
      ranges[slot] = range_of(source_.tensors()[expert.linears[slot].source_weight]);
      ranges[3 + slot] = range_of(source_.tensors()[expert.linears[slot].source_scale]);
    }
    MergedRanges merged = merge_ranges(ranges);
    Unit unit;
    unit.stage = stage;
    unit.forward = forward;
    unit.write = write;
    unit.expert = &expert;
    unit.reads = std::move(merged.ranges);
    std::copy_n(merged.places.begin(), 6, unit.places.begin());
    units_.push_back(std::move(unit));
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const Work& work_;
  std::vector<Unit> units_;
};

}  // namespace

bool is_forward(const Plan& plan, const Work& work, size_t stage) {
  if (!work.forward_from) return false;
  const std::optional<uint64_t> layer = plan.stages[stage].layer;
  return layer ? *layer >= *work.forward_from : stage == 0 && *work.forward_from == 0;
}

std::vector<Unit> list_units(const Checkpoint& source, const Plan& plan, const Work& work) {
  return UnitList(source, plan, work).make();
}

}  // namespace nibblecast
