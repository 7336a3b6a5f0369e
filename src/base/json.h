// base/json.h - strict JSON for files we did not write.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

using Json = nlohmann::json;  // keys in sorted order

// Refuses (kBadInput, with `file` and the byte offset): anything after the value, invalid UTF-8,
// a key twice in one object, nesting deeper than 64. `offset_base` is added to offsets in messages
// (a safetensors header starts at byte 8).
Json parse_json(std::string_view text, const std::string& file, uint64_t offset_base = 0);

// The value under `key`; null where there is none, or `object` is no object.
Json at_or_null(const Json& object, const std::string& key);

// The strings of an array: what is none is left out, and what is no array has none.
std::vector<std::string> strings_of(const Json& list);

}  // namespace nibblecast
