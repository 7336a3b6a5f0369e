#include "calibration/text_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

struct Compression {
  std::string_view magic, name, command;
};
constexpr Compression kCompressions[] = {{"\x1F\x8B", "gzip", "zcat"},
                                         {"\x28\xB5\x2F\xFD", "zstd", "zstdcat"},
                                         {std::string_view("\xFD"
                                                           "7zXZ\0",
                                                           6),
                                          "xz", "xzcat"},
                                         {"BZh", "bzip2", "bzcat"},
                                         {"\x04\x22\x4D\x18", "lz4", "lz4cat"},
                                         {"PK\x03\x04", "zip", "unzip -p"}};

}  // namespace

ByteSource source_of(std::string_view bytes) {
  return [bytes](std::span<std::byte> to) mutable {
    const size_t taken = std::min(bytes.size(), to.size());
    std::memcpy(to.data(), bytes.data(), taken);
    bytes.remove_prefix(taken);
    return taken;
  };
}

TextReader::TextReader(ByteSource source, std::string name)
    : source_(std::move(source)), name_(std::move(name)), fresh_(kReadBytes, '\0') {
  while (buffer_.size() < kReadBytes && !at_end_) read();
  refuse_compressed();
  if (buffer_.starts_with(kByteOrderMark)) begin_ = end_ = offset_ = kByteOrderMark.size();
  check();
}

void TextReader::refuse_compressed() const {
  for (const Compression& kind : kCompressions) {
    if (!buffer_.starts_with(kind.magic)) continue;
    // Text may begin like this, too.
    if (kind.name == "bzip2" && (buffer_.size() < 4 || buffer_[3] < '1' || buffer_[3] > '9')) continue;
    const std::string hint = name_ == "standard input"
                                 ? fmt::format("`{} F | nibblecast ... --calib -`", kind.command)
                                 : fmt::format("`{} {} | nibblecast ... --calib -`", kind.command, name_);
    throw Error(ErrorKind::kBadInput, {.file = name_}, fmt::format("compressed ({})", kind.name),
                {.hint = hint});
  }
}

void TextReader::read() {
  const size_t done = source_(std::as_writable_bytes(std::span(fresh_)));
  buffer_.append(fresh_, 0, done);
  at_end_ = done == 0;
}

// Moves the window's end to the first byte that may not be shown.
void TextReader::check() {
  const std::string_view fresh = std::string_view(buffer_).substr(end_);
  const std::string_view before_nul = fresh.substr(0, fresh.find('\0'));
  end_ += find_invalid_utf8(before_nul).value_or(before_nul.size());
}

bool TextReader::widen() {
  const size_t before = end_ - begin_;
  while (end_ - begin_ == before) {
    const size_t hidden = buffer_.size() - end_;
    if (at_end_ && hidden == 0) return false;
    const bool may_be_cut = hidden < kLongestCharacter && buffer_.find('\0', end_) == std::string::npos;
    if (at_end_ || !may_be_cut) {
      skip(before);
      if (buffer_[end_] == '\0') {
        fail("a NUL byte: this is no text", {.hint = "give text, or JSON lines with a key such as \"text\""});
      }
      fail("text is not UTF-8", {.hint = "convert it, say with iconv"});
    }
    buffer_.erase(0, begin_);
    end_ -= begin_;
    begin_ = 0;
    read();
    check();
  }
  return true;
}

void TextReader::skip(size_t bytes) {
  const auto from = buffer_.begin() + static_cast<std::ptrdiff_t>(begin_);
  line_ += static_cast<uint64_t>(std::count(from, from + static_cast<std::ptrdiff_t>(bytes), '\n'));
  begin_ += bytes;
  offset_ += bytes;
}

std::optional<char> TextReader::peek() {
  if (begin_ == end_ && !widen()) return std::nullopt;
  return buffer_[begin_];
}

std::optional<char> TextReader::peek_past_blank() {
  while (true) {
    const std::string_view seen = window();
    const size_t blank = std::min(seen.find_first_not_of(kBlank), seen.size());
    skip(blank);
    if (blank < seen.size()) return buffer_[begin_];
    if (!widen()) return std::nullopt;
  }
}

void TextReader::fail(const std::string& problem, Detail detail) const {
  throw Error(ErrorKind::kBadInput, {.file = fmt::format("{}: line {}", name_, line_), .offset = offset_},
              problem, std::move(detail));
}

}  // namespace nibblecast
