#include "calibration/json_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/error.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr size_t kMostDepth = 64;
constexpr size_t kMostNumberBytes = 1024;

std::string quoted(char c) {
  return c >= 0x20 && c < 0x7f ? fmt::format("'{}'", c)
                               : fmt::format("byte 0x{:02x}", static_cast<uint8_t>(c));
}

bool is_plain(char c) { return c != '"' && c != '\\' && static_cast<uint8_t>(c) >= 0x20; }

}  // namespace

Json JsonReader::read() {
  room_ = kMostHeldBytes;
  values_ = 0;
  text_.peek_past_blank();
  first_line_ = text_.line();
  return read_value(true, 0);
}

Json JsonReader::read_value(bool held, size_t depth) {
  if (depth > kMostDepth) fail("nested too deeply");
  count_value(held);
  switch (const char first = next_past_blank()) {
    case '{':
      return read_object(held, depth + 1);
    case '[':
      return read_array(held, depth + 1);
    case '"':
      return read_string(held);
    case 't':
      read_word("true");
      return true;
    case 'f':
      read_word("false");
      return false;
    case 'n':
      read_word("null");
      return nullptr;
    default:
      if (first == '-' || (first >= '0' && first <= '9')) return read_number();
      fail("not valid JSON");
  }
}

Json JsonReader::read_object(bool held, size_t depth) {
  Json object = Json::object();
  expect('{');
  for (char end = next_past_blank(); end != '}'; end = next_past_blank()) {
    if (end != '"') fail("not valid JSON");
    const std::string key = read_key(held);
    if (next_past_blank() != ':') fail("not valid JSON");
    expect(':');
    if (held && object.contains(key)) fail("key '" + key + "' appears twice");
    const bool hold_value = held && wanted_(key, depth);
    Json value = read_value(hold_value, depth);
    if (held) object.emplace(key, hold_value ? std::move(value) : Json());
    if (next_past_blank() == '}') break;
    expect(',');
    if (next_past_blank() == '}') fail("not valid JSON");
  }
  expect('}');
  return object;
}

Json JsonReader::read_array(bool held, size_t depth) {
  Json array = Json::array();
  expect('[');
  for (char end = next_past_blank(); end != ']';) {
    Json value = read_value(held, depth);
    if (held) array.push_back(std::move(value));
    end = next_past_blank();
    if (end == ']') break;
    expect(',');
    if (next_past_blank() == ']') fail("not valid JSON");
  }
  expect(']');
  return array;
}

Json JsonReader::read_number() {
  constexpr std::string_view kSigns = "+-.0123456789eE";
  std::string digits;
  bool is_open = true;  // it may go on behind the window
  while (is_open && text_.peek()) {
    const std::string_view window = text_.window();
    const size_t bytes = std::min(window.find_first_not_of(kSigns), window.size());
    is_open = bytes == window.size();
    if (digits.size() + bytes > kMostNumberBytes) fail("a number with too many digits");
    digits += window.substr(0, bytes);
    text_.skip(bytes);
  }
  // Ids are many, and nlohmann's parser takes its time to begin.
  uint64_t id = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
  const bool is_integer = error == std::errc() && end == digits.data() + digits.size();
  if (is_integer && (digits.size() == 1 || digits[0] != '0')) return id;
  Json number = Json::parse(digits, nullptr, /*allow_exceptions=*/false);
  if (number.is_discarded()) fail("not valid JSON: '" + digits.substr(0, 80) + "' is no number");
  return number;
}

void JsonReader::read_word(std::string_view word) {
  for (const char c : word) {
    if (next() != c) fail("not valid JSON");
    text_.skip(1);
  }
}

// Keys do not take from the room of texts; long ones count as several values.
std::string JsonReader::read_key(bool held) {
  constexpr size_t kMostKeyBytes = 256, kBytesPerValue = 16;
  const size_t room = std::exchange(room_, kMostKeyBytes);
  std::string key = read_string(held);
  room_ = room;
  values_ += key.size() / kBytesPerValue;
  count_value(held);
  return key;
}

std::string JsonReader::read_string(bool held) {
  std::string string;
  expect('"');
  while (read_plain(held ? &string : nullptr)) read_escape(held ? &string : nullptr);
  return string;
}

// Up to the next escape; false at the string's end, which is skipped.
bool JsonReader::read_plain(std::string* to) {
  while (true) {
    next();
    const std::string_view window = text_.window();
    const auto end = std::find_if_not(window.begin(), window.end(), is_plain);
    const auto bytes = static_cast<size_t>(end - window.begin());
    if (to != nullptr) hold_text(window.substr(0, bytes), *to, room_);
    const bool found = end != window.end();
    const char special = found ? *end : '\0';
    text_.skip(bytes);
    if (!found) continue;
    if (special != '"' && special != '\\') fail("not valid JSON: a control character in a string");
    text_.skip(1);
    return special == '\\';
  }
}

void JsonReader::read_escape(std::string* to) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char name = next();
  std::string meaning;
  if (name == 'u') {
    text_.skip(1);
    uint32_t code = read_hex();
    if (code >= 0xD800 && code < 0xDC00) {
      expect('\\');
      expect('u');
      const uint32_t low = read_hex();
      if (low < 0xDC00 || low > 0xDFFF) fail("not valid JSON: half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("not valid JSON: half of a surrogate pair");
    }
    append_utf8(static_cast<int32_t>(code), meaning);
  } else {
    const size_t index = kNames.find(name);
    if (index == std::string_view::npos) fail("not valid JSON: no escape");
    text_.skip(1);
    meaning = kMeanings[index];
  }
  if (to != nullptr) hold_text(meaning, *to, room_);
}

uint32_t JsonReader::read_hex() {
  constexpr std::string_view kDigits = "0123456789abcdef";
  uint32_t code = 0;
  for (int digit = 0; digit < 4; ++digit) {
    const char c = next();
    const size_t value = kDigits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c);
    if (value == std::string_view::npos) fail("not valid JSON: no escape");
    code = code << 4 | static_cast<uint32_t>(value);
    text_.skip(1);
  }
  return code;
}

void JsonReader::count_value(bool held) {
  if (held && ++values_ > kMostValues) {
    text_.fail("a record of too many values", {.expected = fmt::format("at most {}", kMostValues),
                                               .hint = "divide it into several records"});
  }
}

char JsonReader::next() {
  const auto c = text_.peek();
  if (!c) fail_at_end();
  return *c;
}

char JsonReader::next_past_blank() {
  const auto c = text_.peek_past_blank();
  if (!c) fail_at_end();
  return *c;
}

void JsonReader::expect(char wanted) {
  if (next() != wanted) fail("not valid JSON");
  text_.skip(1);
}

void JsonReader::fail_at_end() const {
  fail(fmt::format("not valid JSON: the text ends within what begins in line {}", first_line_));
}

void JsonReader::fail(const std::string& problem) const {
  const std::string_view window = text_.window();
  text_.fail(problem, {.found = window.empty() ? "the end of the text" : quoted(window[0]),
                       .hint = "is the file complete? Plain text must not begin like JSON"});
}

}  // namespace nibblecast
