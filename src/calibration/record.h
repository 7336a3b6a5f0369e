// calibration/record.h - one record of a calibration set: a text, or token ids.
#pragma once

#include <cstdint>
#include <functional>
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
  std::string text;  // the whole of it, or its beginning:
  // Appends the text's next part, whole characters, to its argument; false at the end. May be empty: nothing
  // follows.
  std::function<bool(std::string& to)> more = {};
  std::optional<std::vector<int32_t>> ids = {};
  bool is_whole_file = false;               // plain text
  std::optional<uint64_t> file_bytes = {};  // of a plain text, where it has a size
};

// `json`: a string, or an object with one of these, sought in this order; with `column` that one alone,
// whatever its name is.
//
//   text | prompt [+ response or completion] | messages | conversations | instruction [+ input] [+ output or
//   response] | article | content | input_ids [+ attention_mask]
//
// A text is a string; a list of parts ({"type": "text", "text": ...}), which are joined as they are; a list
// of messages ({"content": a text}) or turns ({"value": a text}), joined by newlines, as are the texts of
// several keys. A key whose value is null counts as absent, as exports of tables have it. Ids are those that
// the mask (0 or 1, as long as the ids) keeps. Text that ends in kCutMark (held_text.h) ends there; asking
// for more of it is kRefused.
//
// Errors: kBadInput with the place: none of the keys (naming those that are there), wrong types, ids outside
// [0, vocab_size), a mask that keeps no contiguous ids or has another length.
Record read_record(const Json& json, RecordPlace place, uint64_t vocab_size, std::string_view column);

// Whether read_record() looks at this key of the outermost object, or of one within it.
bool is_record_key(std::string_view key, std::string_view column);
bool is_message_key(std::string_view key);
// The keys it knows, and what to do about others.
std::string known_keys(std::string_view column);
inline constexpr const char* kKeyHint = "name the one that holds the text with --calib-key";
// "a, b, c" of the keys of an object, cut where it gets long.
std::string list_names(const std::vector<std::string>& names);

[[noreturn]] void fail_record(const RecordPlace& place, const std::string& problem, Detail detail = {});

}  // namespace nibblecast
