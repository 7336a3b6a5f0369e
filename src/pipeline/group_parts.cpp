#include "pipeline/group_parts.h"

namespace nibblecast {

std::vector<FileRange> group_ranges(const Checkpoint& source, const PlannedGroup& group, uint64_t first_row,
                                    uint64_t rows) {
  std::vector<FileRange> ranges;
  for (const PlannedLinear& linear : group.linears) {
    linear.source.for_parts([&](const Slice& part) {
      const Slice slice = rows == 0 ? part : linear.source.rows_of(part, first_row, rows);
      const Tensor& tensor = source.tensors()[slice.tensor];
      ranges.push_back({tensor.shard, tensor.offset + slice.begin, slice.size_bytes});
    });
  }
  return ranges;
}

std::vector<StoredLinear> group_views(const Checkpoint& source, const PlannedGroup& group, uint64_t rows,
                                      const std::function<std::span<const std::byte>(size_t)>& part) {
  std::vector<StoredLinear> views;
  size_t next = 0;
  for (const PlannedLinear& linear : group.linears) {
    std::vector<std::span<const std::byte>> parts;
    linear.source.for_parts([&](const Slice&) { parts.push_back(part(next++)); });
    linear.source.check(source, parts);
    views.push_back(linear.source.view(rows == 0 ? linear.source.format.rows : rows, parts));
  }
  return views;
}

StoredExpert mlp_of(const PlannedGroup& group, std::span<const StoredLinear> views) {
  StoredExpert mlp;
  for (size_t i = 0; i < views.size(); ++i) {
    const Role role = group.linears[i].module->id.role;
    (role == Role::kGate ? mlp.w1 : role == Role::kDown ? mlp.w2 : mlp.w3) = views[i];
  }
  return mlp;
}

}  // namespace nibblecast
