// model/token_rows.h - rows of tokens, one after the other: what a forward pass knows of its input, whatever
// the model, whatever device it runs on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/logits.h"
#include "ops/cross_entropy.h"

namespace nibblecast {

struct RowSpan {
  size_t begin = 0, length = 0;  // tokens [begin, begin + length) of all rows one after the other
};

struct TokenRows {
  std::vector<RowSpan> rows;
  std::vector<int32_t> ids;         // [tokens]
  std::vector<uint32_t> positions;  // [tokens], in the token's row
  size_t longest = 0;               // tokens of a row

  // Refuses ids outside of the vocabulary (kBadInput).
  TokenRows(uint64_t vocabulary, const std::vector<std::vector<int32_t>>& token_rows);
};

// [tokens]: what each token predicts, the next one of its row; -1: it is the last.
std::vector<int32_t> next_ids(std::span<const RowSpan> rows, std::span<const int32_t> ids);
// What became of the tokens, as rows.
RowLosses row_losses(std::span<const RowSpan> rows, std::span<const CrossEntropy> states);

// Whole rows [first, first + count), tokens [begin, begin + tokens).
struct RowGroup {
  size_t first = 0, count = 0;
  size_t begin = 0, tokens = 0;
};

// As many rows a group as have `most` tokens together, or one longer row, in order; groups without tokens are
// left out. A row counts as a multiple of `step` tokens. It depends on nothing but the rows, so that results
// do not either.
std::vector<RowGroup> group_rows(const std::vector<RowSpan>& rows, size_t most, size_t step = 1);

}  // namespace nibblecast
