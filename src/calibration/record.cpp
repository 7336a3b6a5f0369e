#include "calibration/record.h"

#include <fmt/format.h>

#include <utility>

namespace nibblecast {
namespace {

using Ids = std::vector<int32_t>;

// A string, or a list of parts that each have a "text". null (an assistant that only calls tools) has none.
std::optional<std::string> message_content(const RecordPlace& place, const Json& message) {
  if (!message.is_object() || !message.contains("content")) {
    fail_record(place, "a message is not an object with 'content'");
  }
  const Json& content = message["content"];
  if (content.is_null()) return std::nullopt;
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) fail_record(place, "'content' is neither a string nor a list of parts");
  std::string text;
  for (const Json& part : content) {
    const bool has_text = part.is_object() && part.contains("text") && part["text"].is_string();
    if (!has_text) {
      fail_record(place, "a part of 'content' has no 'text'", {.hint = "only text can be used here"});
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

std::string join_messages(const RecordPlace& place, const Json& messages) {
  if (!messages.is_array()) fail_record(place, "'messages' is not a list");
  std::string text;
  bool is_first = true;
  for (const Json& message : messages) {
    const auto content = message_content(place, message);
    if (!content) continue;
    if (!std::exchange(is_first, false)) text += '\n';
    text += *content;
  }
  return text;
}

Ids read_ids(const RecordPlace& place, const Json& values, uint64_t vocab_size) {
  if (!values.is_array()) fail_record(place, "'input_ids' is not a list");
  Ids ids;
  ids.reserve(values.size());
  for (const Json& value : values) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocab_size) {
      fail_record(place, fmt::format("input_ids[{}] is no token id", ids.size()),
                  {.expected = fmt::format("an integer below {} (vocab_size)", vocab_size),
                   .found = value.dump(-1, ' ', true).substr(0, 80)});
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

}  // namespace

void fail_record(const RecordPlace& place, const std::string& problem, Detail detail) {
  throw Error(ErrorKind::kBadInput, {.file = place.origin, .offset = place.offset}, problem,
              std::move(detail));
}

Record read_record(const Json& json, RecordPlace place, uint64_t vocab_size, std::string_view column) {
  if (!json.is_object()) fail_record(place, "not a JSON object");
  Record record{.place = std::move(place), .text = {}, .ids = {}};
  for (const std::string_view key : kRecordKeys) {
    if (!column.empty() && key != column) continue;
    const auto entry = json.find(key);
    if (entry == json.end() || entry->is_null()) continue;
    if (key == "messages") {
      record.text = join_messages(record.place, *entry);
    } else if (key == "input_ids") {
      record.ids = read_ids(record.place, *entry, vocab_size);
    } else {
      if (!entry->is_string()) fail_record(record.place, fmt::format("'{}' is not a string", key));
      record.text = entry->get<std::string>();
    }
    return record;
  }
  if (!column.empty()) fail_record(record.place, fmt::format("there is no '{}'", column));
  fail_record(record.place, "none of the keys text, prompt, messages, article, input_ids");
}

}  // namespace nibblecast
