#include "calibration/csv_reader.h"

#include <algorithm>

#include "calibration/held_text.h"

namespace nibblecast {
namespace {

constexpr char kSeparators[] = {',', '\t', ';'};
constexpr size_t kRowsToTell = 5;
constexpr size_t kLongestName = 64;

// A name as headers have them, not a sentence.
bool is_column_name(const std::string& field) {
  constexpr std::string_view kSentenceEnds = ".!?:\"'";
  return !field.empty() && field.size() <= kLongestName && field.front() != ' ' && field.back() != ' ' &&
         kSentenceEnds.find(field.back()) == std::string_view::npos;
}

// Whether the rows behind a header of `columns` have as many fields; those that `head` cuts off do not count.
bool has_equal_rows(CsvReader& rows, const TextReader& text, size_t columns) {
  size_t complete = 0;
  try {
    while (complete < kRowsToTell) {
      const auto row = rows.next();
      const bool is_last = text.window().empty();
      if (!row || (is_last && complete > 0)) break;
      if (row->size() != columns) return false;
      ++complete;
    }
  } catch (const Error&) {  // a field that goes on behind the head, or no table
    return complete > 0;
  }
  return complete > 0;
}

bool is_table(std::string_view head, char separator, const std::function<bool(std::string_view)>& is_known) {
  TextReader text(source_of(head), "head");
  CsvReader rows(text, separator);
  std::optional<std::vector<std::string>> header;
  try {
    header = rows.next();
  } catch (const Error&) {
    return false;
  }
  if (!header || !std::all_of(header->begin(), header->end(), is_column_name)) return false;
  if (std::any_of(header->begin(), header->end(), is_known)) return true;
  return header->size() > 1 && has_equal_rows(rows, text, header->size());
}

}  // namespace

std::optional<char> find_separator(std::string_view head,
                                   const std::function<bool(std::string_view)>& is_known) {
  for (const char separator : kSeparators) {
    if (is_table(head, separator, is_known)) return separator;
  }
  return std::nullopt;
}

std::optional<std::vector<std::string>> CsvReader::next() {
  room_ = kMostHeldBytes;
  while (at_line_end()) {
    if (!text_.peek()) return std::nullopt;
    skip_line_end();
  }
  row_line_ = text_.line();
  row_offset_ = text_.offset();
  std::vector<std::string> fields;
  while (true) {
    fields.push_back(read_field(held_.empty() || (fields.size() < held_.size() && held_[fields.size()])));
    if (at_line_end()) break;
    text_.skip(1);
  }
  skip_line_end();
  return fields;
}

// Where a line ends; nothing at the end of the text.
void CsvReader::skip_line_end() {
  if (text_.peek() == '\r') text_.skip(1);
  if (text_.peek() == '\n') text_.skip(1);
}

std::string CsvReader::read_field(bool held) {
  std::string field;
  if (text_.peek() == '"') {
    read_quoted(held ? &field : nullptr);
    if (!at_line_end() && text_.peek() != separator_) {
      text_.fail("a quote closes before its field ends", {.hint = "a quote within quotes is written twice"});
    }
  } else {
    read_until(std::string{separator_, '\r', '\n'}, held ? &field : nullptr);
    // A "\r" that does not end the line is a part of the field.
    while (text_.peek() == '\r' && !at_line_end()) {
      if (held) hold_text("\r", field, room_);
      text_.skip(1);
      read_until(std::string{separator_, '\r', '\n'}, held ? &field : nullptr);
    }
  }
  return field;
}

void CsvReader::read_quoted(std::string* to) {
  const uint64_t first_line = text_.line();
  text_.skip(1);
  while (true) {
    read_until("\"", to);
    if (!text_.peek()) {
      text_.fail("the quote that opens in line " + std::to_string(first_line) + " never closes",
                 {.hint = "a quote within quotes is written twice"});
    }
    text_.skip(1);
    if (text_.peek() != '"') return;
    if (to != nullptr) hold_text("\"", *to, room_);
    text_.skip(1);
  }
}

void CsvReader::read_until(std::string_view stops, std::string* to) {
  while (text_.peek()) {
    const std::string_view window = text_.window();
    const size_t bytes = std::min(window.find_first_of(stops), window.size());
    if (to != nullptr) hold_text(window.substr(0, bytes), *to, room_);
    const bool found = bytes < window.size();
    text_.skip(bytes);
    if (found) return;
  }
}

// At the end of the text too.
bool CsvReader::at_line_end() {
  const auto c = text_.peek();
  if (c != '\r') return !c || c == '\n';
  while (text_.window().size() < 2 && text_.widen()) {
  }
  return text_.window().size() < 2 || text_.window()[1] == '\n';
}

}  // namespace nibblecast
