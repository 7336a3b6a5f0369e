#include "pipeline/verify_steps.h"

#include <algorithm>
#include <utility>

#include "pipeline/group_parts.h"
#include "plan/linear.h"

namespace nibblecast {
namespace {

constexpr uint64_t kUnitBytes = 16 << 20;  // of kept bytes
constexpr size_t kUnitPieces = 64;
constexpr uint64_t kLargestValue = 8;

class StepList {
 public:
  explicit StepList(const DataCheck& check) : check_(check), plan_(check.plan) {}

  std::vector<Step> make() {
    list_kept();
    for (const Stage& stage : plan_.stages) {
      for (const PlannedGroup& group : stage.groups) add_group(group);
    }
    std::ranges::stable_sort(
        steps_, {}, [](const Step& step) { return std::pair(step.reads[0].file, step.reads[0].begin); });
    return std::move(steps_);
  }

 private:
  const Tensor& source_tensor(uint32_t planned) const {
    return check_.source.tensors()[*plan_.tensors[planned].source];
  }
  FileRange source_range(const Tensor& tensor) const {
    return {tensor.shard, tensor.offset, tensor.size_bytes};
  }
  uint32_t output_file(const Tensor& tensor) const {
    return static_cast<uint32_t>(check_.source.shards().size() + tensor.shard);
  }
  FileRange output_range(const Tensor& tensor) const {
    return {output_file(tensor), tensor.offset, tensor.size_bytes};
  }

  void list_kept() {
    Step step;
    uint64_t bytes = 0;
    const auto flush = [&] {
      if (!step.pieces.empty()) finish_kept(std::move(step));
      step = {};
      bytes = 0;
    };
    for (uint32_t planned = 0; planned < plan_.tensors.size(); ++planned) {
      if (plan_.tensors[planned].make != Make::kKeep || check_.matches[planned] == nullptr) continue;
      const uint64_t size = source_tensor(planned).size_bytes;
      for (uint64_t begin = 0; begin < size;) {
        // Cut at whole values.
        const uint64_t piece = std::min(size - begin, round_down(kUnitBytes - bytes, kLargestValue));
        step.pieces.push_back({planned, begin, piece});
        begin += piece;
        bytes += piece;
        if (bytes + kLargestValue > kUnitBytes || step.pieces.size() == kUnitPieces) flush();
      }
    }
    flush();
  }

  void finish_kept(Step step) {
    std::vector<FileRange> ranges;
    for (const KeptPiece& piece : step.pieces) {
      for (FileRange range :
           {source_range(source_tensor(piece.planned)), output_range(*check_.matches[piece.planned])}) {
        ranges.push_back({range.file, range.begin + piece.begin, piece.size_bytes});
      }
    }
    step.shard = source_tensor(step.pieces[0].planned).shard;
    finish(std::move(step), ranges);
  }

  void add_group(const PlannedGroup& group) {
    const auto is_kept = [&](const PlannedLinear& linear) {
      return plan_.tensors[linear.weight].make == Make::kKeep;
    };
    if (std::ranges::all_of(group.linears, is_kept)) return;
    const uint64_t all_rows = group.linears[0].source.format.rows;
    const uint64_t rows = rows_at_once(plan_, group);
    if (rows == 0) {
      add_rows(group, 0, 0);
      return;
    }
    for (uint64_t row = 0; row < all_rows; row += rows) add_rows(group, row, std::min(rows, all_rows - row));
  }

  // Of a matched tensor, whose place need not be the planned one.
  FileRange output_range(const Step& step, uint32_t index) const {
    const Tensor& found = *check_.matches[index];
    const OutputRange range = output_rows(found, step.first_row, step.rows);
    return {output_file(found), range.begin, range.size_bytes};
  }

  // Kept linears were listed with the kept tensors.
  void add_rows(const PlannedGroup& group, uint64_t first_row, uint64_t rows) {
    Step step{.pieces = {},
              .group = &group,
              .first_row = first_row,
              .rows = rows,
              .comparable = {},
              .reads = {},
              .places = {}};
    std::vector<FileRange> ranges = group_ranges(check_.source, group, first_row, rows);
    for (const PlannedLinear& linear : group.linears) {
      const auto there = [&](uint32_t index) { return index == kNone || check_.matches[index] != nullptr; };
      step.comparable.push_back(there(linear.weight) && there(linear.block_scale) &&
                                there(linear.weight_scale));
      if (!step.comparable.back()) continue;
      for (const uint32_t index : {linear.weight, linear.block_scale}) {
        if (index != kNone) ranges.push_back(output_range(step, index));
      }
    }
    step.shard = check_.source.tensors()[group.linears[0].source.weight.tensor].shard;
    finish(std::move(step), ranges);
  }

  void finish(Step step, const std::vector<FileRange>& ranges) {
    MergedRanges merged = merge_ranges(ranges);
    step.reads = std::move(merged.ranges);
    step.places = std::move(merged.places);
    steps_.push_back(std::move(step));
  }

  const DataCheck& check_;
  const Plan& plan_;
  std::vector<Step> steps_;
};

}  // namespace

std::vector<Step> list_steps(const DataCheck& check) { return StepList(check).make(); }

OutputRange output_part(const Plan& plan, const Step& step, uint32_t planned) {
  return output_rows(plan.tensors[planned].out, step.first_row, step.rows);
}

std::span<const std::byte> at_place(const Step& step, const Reader::Loaded& loaded, size_t place,
                                    uint64_t size) {
  return loaded[step.places[place].range].subspan(step.places[place].offset, size);
}

}  // namespace nibblecast
