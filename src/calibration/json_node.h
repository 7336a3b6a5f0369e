// calibration/json_node.h - a value of tokenizer.json that knows where in the file it stands, so that every
// wrong type is reported as `model.vocab['abc']` and not as "type error".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {

// Borrows the JSON value and the file name: both must outlive it. All errors are kBadInput unless they say
// otherwise.
class JsonNode {
 public:
  JsonNode(const Json& value, const std::string& file, std::string path = {})
      : value_(&value), file_(&file), path_(std::move(path)) {}

  // A key that must be there, and one that may be missing or null.
  JsonNode at(const char* key) const;
  std::optional<JsonNode> find(const char* key) const;
  JsonNode at(size_t index) const;  // index < size()
  size_t size() const;              // of an array; anything else is an error

  bool is_text() const { return value_->is_string(); }
  bool is_zero() const { return value_->is_number() && value_->get<double>() == 0; }
  const std::string& text() const;
  bool flag() const;
  bool flag_or(const char* key, bool missing) const;
  int32_t token_id() const;  // 0 ... kMaxTokenId

  // Calls f(key, JsonNode) for each entry of an object, in the order of the keys.
  template <class F>
  void each(const F& f) const {
    require(value_->is_object(), "an object");
    for (const auto& [key, value] : value_->items())
      f(key, JsonNode(value, *file_, path_ + "['" + key + "']"));
  }

  const std::string& path() const { return path_; }
  const std::string& file() const { return *file_; }
  [[noreturn]] void fail(const std::string& problem, Detail detail = {}) const;
  // kUnsupported: well-formed, but not read by this version.
  [[noreturn]] void unsupported(const std::string& what) const;

 private:
  void require(bool holds, const char* expected) const;

  const Json* value_;
  const std::string* file_;
  std::string path_;
};

// Far above any vocabulary; a larger id is a damaged file, and would size somebody's table.
inline constexpr int32_t kMaxTokenId = (1 << 24) - 1;

}  // namespace nibblecast
