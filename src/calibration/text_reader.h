// calibration/text_reader.h - the text of a calibration file, checked, through a window that follows the
// reader.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace nibblecast {

// Fills a part of `to`; 0 at the end.
using ByteSource = std::function<size_t(std::span<std::byte> to)>;

// White space of JSON.
inline constexpr std::string_view kBlank = " \t\r\n";

// The whole of `bytes`, which must outlive it.
ByteSource source_of(std::string_view bytes);

// Reads no further than it is asked to, kReadBytes at a time. A byte order mark is skipped. What the window
// shows is UTF-8 without NUL bytes, whole characters only.
class TextReader {
 public:
  static constexpr size_t kReadBytes = 64 << 10;

  // `name` is for messages. kBadInput: a compressed file, with the command that unpacks it.
  TextReader(ByteSource source, std::string name);

  // What is read and not yet skipped.
  std::string_view window() const { return std::string_view(buffer_).substr(begin_, end_ - begin_); }
  // Widens the window; false at the end of the text. kBadInput with line and offset: not UTF-8, a NUL byte.
  bool widen();
  void skip(size_t bytes);  // at most the window
  // The first byte of the window; nullopt at the end of the text.
  std::optional<char> peek();
  // The first byte that is no white space (of JSON); skips what stands before it.
  std::optional<char> peek_past_blank();

  uint64_t offset() const { return offset_; }  // of the window's first byte, in the source
  uint64_t line() const { return line_; }      // the window's first byte stands in it; from 1
  const std::string& name() const { return name_; }
  // Names the file and the window's first byte.
  [[noreturn]] void fail(const std::string& problem, Detail detail = {}) const;

 private:
  void read();
  void check();
  void refuse_compressed() const;

  ByteSource source_;
  std::string name_;
  std::string fresh_;  // for one read
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;  // of the window, in buffer_; behind it what is not checked or wrong
  uint64_t offset_ = 0;
  uint64_t line_ = 1;
  bool at_end_ = false;
};

}  // namespace nibblecast
