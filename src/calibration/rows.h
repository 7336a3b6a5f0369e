// calibration/rows.h - calibration sets to rows of token ids.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "calibration/calibration_set.h"
#include "calibration/tokenizer.h"

namespace nibblecast {

enum class RowsPolicy {
  kDocs,    // one row a text, truncated to `length` as hf_ptq does, without its padding; counts are texts
  kPacked,  // the texts of a set, with their BOS, concatenated and cut into rows of exactly `length`; counts
            // are rows, an incomplete last row is dropped
};
enum class BosPolicy {
  kAuto,    // what the post-processor adds; where that is no BOS, bos_token_id once before each text
  kAlways,  // bos_token_id first, once, whatever the tokenizer adds
  kNever,   // no special tokens
};

struct RowsOptions {
  RowsPolicy policy = RowsPolicy::kDocs;
  BosPolicy bos = BosPolicy::kAuto;
  uint64_t length = 512;
  // What reading may take: kReadingBytes, and beyond it room for a long word or many rows.
  uint64_t memory_bytes = UINT64_MAX;
};

// What reading takes besides ids and words longer than kLeastWordBytes: the tokenizer, and of a record what
// is held.
inline constexpr uint64_t kReadingBytes = 160 << 20;
inline constexpr uint64_t kLeastWordBytes = 256 << 10;

struct CalibrationRows {
  std::vector<std::vector<int32_t>> ids;
  uint64_t tokens() const;
  uint64_t longest() const;
  std::vector<std::string> warnings;  // "asked for 128 rows, the file gives 57"
};

// Called for the first text: files of token ids need no tokenizer, and a broken one does not matter to them.
// nullptr where there is none.
using TokenizerSource = std::function<const Tokenizer*()>;

// Below these a calibration is not worth its name, or none at all.
inline constexpr uint64_t kFewTokens = 1024;
inline constexpr uint64_t kLeastTokens = 16;
// Adds a warning to rows with less than kFewTokens tokens in all; kBadInput below kLeastTokens. `calib` is
// for messages.
void check_tokens(CalibrationRows& rows, const std::string& calib);

// The sets' rows, one set after the other. Empty texts are dropped (as hf_ptq does) and count in a warning;
// input_ids are taken as they are (no BOS added), truncated to `length`. Errors besides those of
// open_records() (kBadInput): a text without a tokenizer, ids outside [0, vocab_size), a set without any row,
// a set whose first files alone are here and hold fewer texts than its count. kRefused: rows or a word that
// do not fit into `memory_bytes`, a record longer than what is held of one where a row needs more of it.
//
// Texts are read as far as rows need them, and reading stops when the rows are full.
CalibrationRows read_rows(FileSystem& files, std::span<const CalibrationSet> sets,
                          const TokenizerSource& tokenizer, int64_t bos_token_id, uint64_t vocab_size,
                          const RowsOptions& options);

}  // namespace nibblecast
