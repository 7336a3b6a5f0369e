// pipeline/group_parts.h - where the parts of a group's linears lie: in the source's files, and in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "formats/stored_linear.h"
#include "model/stored.h"
#include "pipeline/file_range.h"
#include "plan/plan.h"

namespace nibblecast {

// Of each linear in turn the parts that it has (LinearSource::for_parts), for rows
// [first_row, first_row + rows) of the group's only linear; 0 rows: whole linears.
std::vector<FileRange> group_ranges(const Checkpoint& source, const PlannedGroup& group, uint64_t first_row,
                                    uint64_t rows);

// The linears in memory: `part(i)` are the bytes of the i-th of those ranges. As LinearSource::check().
std::vector<StoredLinear> group_views(const Checkpoint& source, const PlannedGroup& group, uint64_t rows,
                                      const std::function<std::span<const std::byte>(size_t)>& part);

// Of an MLP that streams by. A group without a gate has an empty w1.
StoredExpert mlp_of(const PlannedGroup& group, std::span<const StoredLinear> views);

}  // namespace nibblecast
