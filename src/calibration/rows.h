// calibration/rows.h - calibration texts to rows of token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <string>
#include <vector>

#include "base/file.h"
#include "calibration/tokenizer.h"

namespace nibblecast {

enum class RowsPolicy {
  kDocs,    // one row a text, truncated to `length` as hf_ptq does, without its padding; `count` counts texts
  kPacked,  // texts with their BOS concatenated and cut into rows of exactly `length`; `count` counts rows,
            // an incomplete last row is dropped
};
enum class BosPolicy {
  kAuto,    // what the post-processor adds; where that is no BOS, bos_token_id once before each text
  kAlways,  // bos_token_id first, once, whatever the tokenizer adds
  kNever,   // no special tokens
};

struct RowsOptions {
  RowsPolicy policy = RowsPolicy::kDocs;
  BosPolicy bos = BosPolicy::kAuto;
  uint64_t count = 128;
  uint64_t length = 512;
};

struct CalibrationRows {
  std::vector<std::vector<int32_t>> ids;
  uint64_t tokens() const;
  uint64_t longest() const;
  std::vector<std::string> warnings;  // "asked for 128 rows, the file gives 57"
};

// `source`: a path, or "-" for standard input. A file whose first non-blank character is '{' is JSONL: each
// line an object with one of `text`, `prompt`, `messages` (contents joined by a newline), `article` (in this
// order) or `input_ids`; `tokenizer` may be null only if all lines hold input_ids. Any other file is one
// plain text per file. Empty texts are dropped (as hf_ptq does) and count in a warning; input_ids are taken
// as they are (no BOS added), truncated to `length`. Errors (kBadInput with file, line number and byte
// offset): not UTF-8, not JSON, none of the keys, wrong types, ids outside [0, vocab_size), no rows at all; a
// binary file (NUL bytes) is refused.
CalibrationRows read_rows(FileSystem& files, const std::string& source, const Tokenizer* tokenizer,
                          int64_t bos_token_id, uint64_t vocab_size, const RowsOptions& options);

}  // namespace nibblecast
