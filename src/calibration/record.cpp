#include "calibration/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "calibration/held_text.h"

namespace nibblecast {
namespace {

using Ids = std::vector<int32_t>;
using Keys = std::vector<std::string_view>;

// A text of one key or of several: the first is what tells it, of each other the first that is there.
struct TextKeys {
  std::string_view first;
  std::vector<Keys> others = {};
  bool is_list = false;
};
const TextKeys kTexts[] = {
    {"text"},
    {"prompt", {{"response", "completion"}}},
    {"messages", {}, true},
    {"conversations", {}, true},
    {"instruction", {{"input"}, {"output", "response"}}},
    {"article"},
    {"content"},
};
constexpr std::string_view kIds = "input_ids", kMask = "attention_mask";

// Gathers a text from strings, up to one that was cut.
class TextBuilder {
 public:
  explicit TextBuilder(const RecordPlace& place) : place_(place) {}

  // A line of its own, or several: `value` is a text as read_record() has it.
  void add(const Json& value, std::string_view key) {
    if (value.is_null()) return;
    if (value.is_array() && !value.empty() && is_part(value[0])) return add_line(joined_parts(value));
    if (value.is_array()) {
      for (const Json& element : value) add_element(element, key);
      return;
    }
    if (!value.is_string()) {
      fail_record(place_, fmt::format("'{}' is not a string", key),
                  {.expected = "a text, a list of parts or of messages", .found = value.type_name()});
    }
    add_line(value.get_ref<const std::string&>());
  }

  std::string take() { return std::move(text_); }

 private:
  static bool is_part(const Json& json) {
    return json.is_object() && (json.contains("text") || json.contains("type")) &&
           !json.contains("content") && !json.contains("value") && !json.contains("role");
  }

  void add_element(const Json& element, std::string_view key) {
    if (element.is_string()) return add_line(element.get_ref<const std::string&>());
    for (const char* content : {"content", "value"}) {
      if (element.is_object() && element.contains(content)) return add(element[content], content);
    }
    fail_record(place_, fmt::format("a message of '{}' is not an object with 'content' or 'value'", key));
  }

  std::string joined_parts(const Json& parts) const {
    std::string text;
    for (const Json& part : parts) {
      const bool has_text = part.is_object() && part.contains("text") && part["text"].is_string();
      if (!has_text)
        fail_record(place_, "a part of a message has no 'text'", {.hint = "only text can be used here"});
      text += part["text"].get_ref<const std::string&>();
      if (text.ends_with(kCutMark)) break;
    }
    return text;
  }

  void add_line(const std::string& line) {
    if (text_.ends_with(kCutMark)) return;
    if (!std::exchange(is_first_, false)) text_ += '\n';
    text_ += line;
  }

  const RecordPlace& place_;
  std::string text_;
  bool is_first_ = true;
};

const Json* find_value(const Json& object, std::string_view key) {
  const auto entry = object.find(key);
  return entry == object.end() || entry->is_null() ? nullptr : &*entry;
}

std::string join_texts(const RecordPlace& place, const Json& object, const TextKeys& keys) {
  TextBuilder text(place);
  const Json& first = *find_value(object, keys.first);
  if (keys.is_list && !first.is_array()) fail_record(place, fmt::format("'{}' is not a list", keys.first));
  text.add(first, keys.first);
  for (const Keys& alternatives : keys.others) {
    for (const std::string_view key : alternatives) {
      const Json* const value = find_value(object, key);
      if (value == nullptr) continue;
      if (!value->is_string() || !value->get_ref<const std::string&>().empty()) text.add(*value, key);
      break;
    }
  }
  return text.take();
}

// The ids from `begin` to `end`.
struct Kept {
  size_t begin = 0, end = 0;
};

// What a mask over `count` ids keeps: the ones, which stand together.
Kept read_mask(const RecordPlace& place, const Json& mask, size_t count) {
  if (!mask.is_array()) fail_record(place, fmt::format("'{}' is not a list", kMask));
  if (mask.size() != count) {
    fail_record(place, fmt::format("'{}' is not as long as '{}'", kMask, kIds),
                {.expected = std::to_string(count), .found = std::to_string(mask.size())});
  }
  Kept kept;
  for (size_t i = 0; i < count; ++i) {
    const Json& value = mask[i];
    const bool is_one = value == Json(1) || value == Json(true);
    if (!is_one && value != Json(0) && value != Json(false)) {
      fail_record(place, fmt::format("{}[{}] is neither 0 nor 1", kMask, i));
    }
    if (!is_one) continue;
    if (kept.end > 0 && kept.end != i) {
      fail_record(place, fmt::format("'{}' has holes: {} is 0 between ones", kMask, i - 1),
                  {.hint = "only padding at the left or the right can be left out"});
    }
    if (kept.end == 0) kept.begin = i;
    kept.end = i + 1;
  }
  return kept;
}

Ids read_ids(const RecordPlace& place, const Json& values, std::string_view key, const Json* mask,
             uint64_t vocab_size) {
  if (!values.is_array()) fail_record(place, fmt::format("'{}' is not a list", key));
  const Kept kept = mask == nullptr ? Kept{0, values.size()} : read_mask(place, *mask, values.size());
  Ids ids;
  ids.reserve(kept.end - kept.begin);
  for (size_t i = kept.begin; i < kept.end; ++i) {
    const Json& value = values[i];
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocab_size) {
      fail_record(place, fmt::format("{}[{}] is no token id", key, i),
                  {.expected = fmt::format("an integer below {} (vocab_size)", vocab_size),
                   .found = value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80)});
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

void set_text(Record& record, std::string text) {
  record.text = std::move(text);
  if (!record.text.ends_with(kCutMark)) return;
  record.text.pop_back();
  record.more = [place = record.place](std::string&) -> bool {
    throw Error(
        ErrorKind::kRefused, {.file = place.origin, .offset = place.offset},
        fmt::format(
            "the record is longer than the {} bytes that are held of one, and the rows need more of it",
            kMostHeldBytes),
        {.hint = "divide it into several records, or give the text as a file of plain text"});
  };
}

bool holds_numbers(const Json& value) { return value.is_array() && !value.empty() && value[0].is_number(); }

// With the column named `column` alone.
void read_column(Record& record, const Json& object, std::string_view column, uint64_t vocab_size) {
  const Json* const value = find_value(object, column);
  if (value == nullptr) {
    std::vector<std::string> found;
    for (const auto& [key, unused] : object.items()) found.push_back(key);
    fail_record(record.place, fmt::format("there is no '{}'", column), {.found = list_names(found)});
  }
  if (column == kIds || holds_numbers(*value)) {
    record.ids = read_ids(record.place, *value, column, find_value(object, kMask), vocab_size);
    return;
  }
  const auto known = std::find_if(std::begin(kTexts), std::end(kTexts),
                                  [&](const TextKeys& keys) { return keys.first == column; });
  const bool is_list = known != std::end(kTexts) && known->is_list;
  set_text(record, join_texts(record.place, object, {column, {}, is_list}));
}

}  // namespace

void fail_record(const RecordPlace& place, const std::string& problem, Detail detail) {
  throw Error(ErrorKind::kBadInput, {.file = place.origin, .offset = place.offset}, problem,
              std::move(detail));
}

std::string list_names(const std::vector<std::string>& names) {
  constexpr size_t kMostBytes = 200;
  std::string list;
  for (const std::string& name : names) {
    if (list.size() + name.size() > kMostBytes) return list + (list.empty() ? "..." : ", ...");
    list += (list.empty() ? "" : ", ") + name;
  }
  return list.empty() ? "none" : list;
}

std::string known_keys(std::string_view column) {
  if (!column.empty()) return std::string(column);
  std::string known;
  for (const TextKeys& keys : kTexts) known += std::string(keys.first) + ", ";
  return known + "or " + std::string(kIds);
}

bool is_message_key(std::string_view key) { return key == "content" || key == "value" || key == "text"; }

bool is_record_key(std::string_view key, std::string_view column) {
  if (!column.empty()) return key == column || key == kMask;
  if (key == kIds || key == kMask) return true;
  for (const TextKeys& keys : kTexts) {
    if (key == keys.first) return true;
    for (const Keys& others : keys.others) {
      if (std::find(others.begin(), others.end(), key) != others.end()) return true;
    }
  }
  return false;
}

Record read_record(const Json& json, RecordPlace place, uint64_t vocab_size, std::string_view column) {
  Record record{.place = std::move(place), .text = {}};
  if (json.is_string() && column.empty()) {
    set_text(record, json.get<std::string>());
    return record;
  }
  if (!json.is_object()) {
    fail_record(record.place, column.empty() ? "not a JSON object or string" : "not a JSON object",
                {.found = json.type_name()});
  }
  if (!column.empty()) {
    read_column(record, json, column, vocab_size);
    return record;
  }
  for (const TextKeys& keys : kTexts) {
    if (find_value(json, keys.first) == nullptr) continue;
    set_text(record, join_texts(record.place, json, keys));
    return record;
  }
  if (const Json* const ids = find_value(json, kIds)) {
    record.ids = read_ids(record.place, *ids, kIds, find_value(json, kMask), vocab_size);
    return record;
  }
  std::vector<std::string> found;
  for (const auto& [key, value] : json.items()) {
    found.push_back(value.is_null() && is_record_key(key, column) ? key + " (null)" : key);
  }
  fail_record(record.place, "none of the keys that hold calibration texts",
              {.expected = known_keys(column), .found = list_names(found), .hint = kKeyHint});
}

}  // namespace nibblecast
