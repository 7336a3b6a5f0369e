#include "calibration/json_node.h"

namespace nibblecast {
namespace {

constexpr size_t kQuotedBytes = 80;

// The value as the message quotes it; bytes that are cut inside a character are replaced.
std::string quoted(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kQuotedBytes) text = text.substr(0, kQuotedBytes) + "...";
  return text;
}

}  // namespace

JsonNode JsonNode::at(const char* key) const {
  if (const auto found = find(key)) return *found;
  fail(std::string("key '") + key + "' is missing");
}

std::optional<JsonNode> JsonNode::find(const char* key) const {
  require(value_->is_object(), "an object");
  const auto entry = value_->find(key);
  if (entry == value_->end() || entry->is_null()) return std::nullopt;
  return JsonNode(*entry, *file_, path_.empty() ? key : path_ + "." + key);
}

JsonNode JsonNode::at(size_t index) const {
  return JsonNode((*value_)[index], *file_, path_ + "[" + std::to_string(index) + "]");
}

size_t JsonNode::size() const {
  require(value_->is_array(), "an array");
  return value_->size();
}

const std::string& JsonNode::text() const {
  require(value_->is_string(), "a string");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::flag() const {
  require(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

bool JsonNode::flag_or(const char* key, bool missing) const {
  const auto node = find(key);
  return node ? node->flag() : missing;
}

int32_t JsonNode::token_id() const {
  const bool fits = value_->is_number_unsigned() && value_->get<uint64_t>() <= uint64_t{kMaxTokenId};
  if (!fits) {
    fail("not a token id",
         {.expected = "an integer from 0 to " + std::to_string(kMaxTokenId), .found = quoted(*value_)});
  }
  return value_->get<int32_t>();
}

void JsonNode::fail(const std::string& problem, Detail detail) const {
  throw Error(ErrorKind::kBadInput, {.file = *file_}, path_.empty() ? problem : path_ + ": " + problem,
              std::move(detail));
}

void JsonNode::unsupported(const std::string& what) const {
  throw Error(ErrorKind::kUnsupported, {.file = *file_},
              (path_.empty() ? "" : path_ + ": ") + what + " is not supported",
              {.hint = "give the calibration rows as `input_ids`, made with the model's own tokenizer"});
}

void JsonNode::require(bool holds, const char* expected) const {
  if (!holds) fail("wrong type", {.expected = expected, .found = quoted(*value_)});
}

}  // namespace nibblecast
