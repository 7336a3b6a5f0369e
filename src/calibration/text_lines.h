// calibration/text_lines.h - the texts of a calibration file, read one by one: a line each of JSONL, or the
// whole of any other file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/file.h"

namespace nibblecast {

// Fills a part of `to`; 0 at the end.
using ByteSource = std::function<size_t(std::span<std::byte> to)>;

// `source`: a path, or "-" for standard input.
ByteSource open_source(FileSystem& files, const std::string& source);

struct TextLine {
  std::string text;     // without its line end; valid UTF-8 without NUL
  std::string origin;   // "calib.jsonl: line 3", for messages
  uint64_t offset = 0;  // of the text's first byte in the source
};

// Reads no further than it is asked to. A byte order mark is skipped.
class TextLines {
 public:
  TextLines(ByteSource source, std::string name);

  // Whether the first character that is no white space is '{'.
  bool is_jsonl();
  // The next line that is not blank; nullopt at the end. Line ends are "\n" or "\r\n".
  // kBadInput, with line and offset: a line longer than kMaxLineBytes, NUL bytes, not UTF-8.
  std::optional<TextLine> next_line();
  // All that is left, under the same conditions.
  TextLine rest();

  static constexpr uint64_t kMaxLineBytes = 1 << 30;

 private:
  bool fill();  // false at the end of the source
  TextLine take(size_t bytes, std::string origin);

  ByteSource source_;
  std::string name_;
  std::string buffer_;
  size_t begin_ = 0;     // of what is not taken yet, in buffer_
  uint64_t offset_ = 0;  // of the same, in the source
  uint64_t line_ = 0;
  bool at_end_ = false;
};

}  // namespace nibblecast
