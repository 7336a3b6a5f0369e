// calibration/csv_reader.h - rows of a table as text: RFC 4180, with commas, tabs or semicolons.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/text_reader.h"

namespace nibblecast {

// Fields in quotes may hold separators, line ends and doubled quotes. Lines end with "\n" or "\r\n"; empty
// ones are skipped.
class CsvReader {
 public:
  // `text` must outlive it.
  CsvReader(TextReader& text, char separator) : text_(text), separator_(separator) {}

  // The columns whose fields are held from now on; others come empty. All until this is called.
  void hold_only(std::vector<bool> columns) { held_ = std::move(columns); }
  // nullopt at the end. What is longer than kMostHeldBytes (held_text.h), counted over the row, ends there
  // with kCutMark. kBadInput with line and offset: a quote that never closes, or that closes before a field's
  // end.
  std::optional<std::vector<std::string>> next();
  // Where the row that next() gave begins.
  uint64_t row_line() const { return row_line_; }
  uint64_t row_offset() const { return row_offset_; }

 private:
  std::string read_field(bool held);
  void read_quoted(std::string* to);
  void read_until(std::string_view stops, std::string* to);
  bool at_line_end();
  void skip_line_end();

  TextReader& text_;
  char separator_;
  std::vector<bool> held_;
  uint64_t row_line_ = 1, row_offset_ = 0;
  size_t room_ = 0;  // bytes of fields that may still be held
};

// The separator with which the beginning of a text (`head`, whole characters) is a table with a header row,
// or nullopt if it is none: a column is one of those that `is_known` knows; or two and more names, and as
// many fields in each of the next rows.
std::optional<char> find_separator(std::string_view head,
                                   const std::function<bool(std::string_view)>& is_known);

}  // namespace nibblecast
