#include "calibration/text_lines.h"

#include <iostream>

#include "base/error.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr size_t kReadBytes = 1 << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlank = " \t\r\n";

size_t read_standard_input(std::span<std::byte> to) {
  std::cin.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(to.size()));
  if (std::cin.bad()) throw Error(ErrorKind::kIo, {.file = "standard input"}, "cannot read");
  return static_cast<size_t>(std::cin.gcount());
}

void check_text(const TextLine& line) {
  if (const size_t nul = line.text.find('\0'); nul != std::string::npos) {
    throw Error(ErrorKind::kBadInput, {.file = line.origin, .offset = line.offset + nul},
                "a NUL byte: this is no text",
                {.hint = "give text, or JSON lines with a key such as \"text\""});
  }
  if (const auto invalid = find_invalid_utf8(line.text)) {
    throw Error(ErrorKind::kBadInput, {.file = line.origin, .offset = line.offset + *invalid},
                "text is not UTF-8", {.hint = "convert it, say with iconv"});
  }
}

}  // namespace

ByteSource open_source(FileSystem& files, const std::string& source) {
  if (source == "-") return read_standard_input;
  std::shared_ptr<File> file = files.open(source, Access::kRead);
  return [file, offset = uint64_t{0}](std::span<std::byte> to) mutable {
    const size_t done = file->read_some(offset, to);
    offset += done;
    return done;
  };
}

TextLines::TextLines(ByteSource source, std::string name)
    : source_(std::move(source)), name_(std::move(name)) {
  while (buffer_.size() < kByteOrderMark.size() && fill()) {
  }
  if (buffer_.starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
  offset_ = begin_;
}

bool TextLines::fill() {
  if (at_end_) return false;
  if (buffer_.size() - begin_ > kMaxLineBytes) {
    throw Error(ErrorKind::kBadInput, {.file = name_, .offset = offset_},
                "line " + std::to_string(line_ + 1) + " is longer than a text may be",
                {.expected = "at most " + std::to_string(kMaxLineBytes) + " bytes"});
  }
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kReadBytes);
  const size_t done = source_(std::as_writable_bytes(std::span(buffer_)).subspan(old));
  buffer_.resize(old + done);
  at_end_ = done == 0;
  return !at_end_;
}

bool TextLines::is_jsonl() {
  size_t first = buffer_.find_first_not_of(kBlank, begin_);
  while (first == std::string::npos) {
    const size_t seen = buffer_.size() - begin_;
    if (!fill()) return false;
    first = buffer_.find_first_not_of(kBlank, begin_ + seen);
  }
  return buffer_[first] == '{';
}

std::optional<TextLine> TextLines::next_line() {
  while (true) {
    size_t end = buffer_.find('\n', begin_);
    while (end == std::string::npos) {
      const size_t seen = buffer_.size() - begin_;
      if (!fill()) break;
      end = buffer_.find('\n', begin_ + seen);
    }
    if (end == std::string::npos && begin_ == buffer_.size()) return std::nullopt;
    ++line_;
    const size_t bytes = std::min(end, buffer_.size()) - begin_;
    TextLine line = take(bytes, name_ + ": line " + std::to_string(line_));
    if (end != std::string::npos) {
      ++begin_;
      ++offset_;
    }
    if (line.text.ends_with('\r')) line.text.pop_back();
    if (line.text.find_first_not_of(kBlank) == std::string::npos) continue;
    check_text(line);
    return line;
  }
}

TextLine TextLines::rest() {
  while (fill()) {
  }
  TextLine line = take(buffer_.size() - begin_, name_);
  check_text(line);
  return line;
}

TextLine TextLines::take(size_t bytes, std::string origin) {
  TextLine line{.text = buffer_.substr(begin_, bytes), .origin = std::move(origin), .offset = offset_};
  begin_ += bytes;
  offset_ += bytes;
  return line;
}

}  // namespace nibblecast
