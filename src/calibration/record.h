// calibration/record.h - one record of a calibration set: a text, or token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {

// Where a record stands, for messages.
struct RecordPlace {
  std::string origin;              // "calib.jsonl: line 3", "train.parquet: row 3"
  std::optional<uint64_t> offset;  // of its first byte, where it has one
};

struct Record {
  RecordPlace place;
  std::string text;
  std::optional<std::vector<int32_t>> ids;
};

// `json`: an object with one of `text`, `prompt`, `messages` (contents joined by a newline), `article` or
// `input_ids`, sought in this order; or with `column`, one of these, if that is not empty. A key whose value
// is null counts as absent, as exports of tables have it. Errors: kBadInput with the place: no object, no
// key, wrong types, ids outside [0, vocab_size).
Record read_record(const Json& json, RecordPlace place, uint64_t vocab_size, std::string_view column);

// The keys that read_record() knows.
inline constexpr const char* kRecordKeys[] = {"text", "prompt", "messages", "article", "input_ids"};

[[noreturn]] void fail_record(const RecordPlace& place, const std::string& problem, Detail detail = {});

}  // namespace nibblecast
