#include "model/token_rows.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/integers.h"

namespace nibblecast {

TokenRows::TokenRows(uint64_t vocabulary, const std::vector<std::vector<int32_t>>& token_rows) {
  for (const std::vector<int32_t>& row : token_rows) {
    rows.push_back({ids.size(), row.size()});
    longest = std::max(longest, row.size());
    for (size_t position = 0; position < row.size(); ++position) {
      const int32_t id = row[position];
      if (id < 0 || static_cast<uint64_t>(id) >= vocabulary) {
        throw Error(ErrorKind::kBadInput, {}, "token id out of range",
                    {.expected = "0 to " + std::to_string(vocabulary - 1),
                     .found = std::to_string(id),
                     .hint = "does the tokenizer belong to this model?"});
      }
      ids.push_back(id);
      positions.push_back(static_cast<uint32_t>(position));
    }
  }
}

std::vector<int32_t> next_ids(std::span<const RowSpan> rows, std::span<const int32_t> ids) {
  std::vector<int32_t> next(ids.size(), -1);
  for (const RowSpan& row : rows) {
    for (size_t token = row.begin; token + 1 < row.begin + row.length; ++token) next[token] = ids[token + 1];
  }
  return next;
}

RowLosses row_losses(std::span<const RowSpan> rows, std::span<const CrossEntropy> states) {
  RowLosses losses;
  for (const RowSpan& row : rows) {
    std::vector<float>& own = losses.emplace_back();
    for (size_t token = row.begin; token + 1 < row.begin + row.length; ++token)
      own.push_back(static_cast<float>(value(states[token])));
  }
  return losses;
}

std::vector<RowGroup> group_rows(const std::vector<RowSpan>& rows, size_t most, size_t step) {
  std::vector<RowGroup> groups;
  size_t held = 0;  // tokens of the last group as they count
  for (size_t row = 0; row < rows.size(); ++row) {
    const size_t counts = ceil_div(rows[row].length, step) * step;
    if (groups.empty() || held + counts > most) {
      groups.push_back({.first = row, .begin = rows[row].begin});
      held = 0;
    }
    ++groups.back().count;
    groups.back().tokens += rows[row].length;
    held += counts;
  }
  std::erase_if(groups, [](const RowGroup& group) { return group.tokens == 0; });
  return groups;
}

}  // namespace nibblecast
