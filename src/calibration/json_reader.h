// calibration/json_reader.h - JSON values out of a text, one after the other, in bounded memory: of a record
// of any size the parts that calibration can use are held, and of those no more than rows need.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "calibration/held_text.h"
#include "calibration/text_reader.h"

namespace nibblecast {

// Strict as parse_json(); of keys that appear twice only those of objects that are held are seen.
class JsonReader {
 public:
  // Whether the value of this key is held; `depth` is 1 in the outermost object. Others become null.
  using KeyFilter = std::function<bool(std::string_view key, size_t depth)>;

  // `text` must outlive it.
  JsonReader(TextReader& text, KeyFilter wanted) : text_(text), wanted_(std::move(wanted)) {}

  // The value whose first byte is the next one that is not blank, which must be there. Strings longer than
  // kMostHeldBytes, counted over the whole value, end there with kCutMark. kBadInput with line and offset:
  // not JSON, nested deeper than 64, more than kMostValues values to hold.
  Json read();

  static constexpr size_t kMostValues = 1 << 20;

 private:
  Json read_value(bool held, size_t depth);
  Json read_object(bool held, size_t depth);
  Json read_array(bool held, size_t depth);
  Json read_number();
  void read_word(std::string_view word);
  std::string read_key(bool held);
  std::string read_string(bool held);
  bool read_plain(std::string* to);
  void read_escape(std::string* to);
  uint32_t read_hex();
  void count_value(bool held);
  char next();
  char next_past_blank();
  void expect(char wanted);
  [[noreturn]] void fail_at_end() const;
  [[noreturn]] void fail(const std::string& problem) const;

  TextReader& text_;
  KeyFilter wanted_;
  uint64_t first_line_ = 0;
  size_t room_ = 0;    // bytes of strings that may still be held
  size_t values_ = 0;  // held
};

}  // namespace nibblecast
