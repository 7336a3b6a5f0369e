#include "calibration/utf8.h"

#include <utf8proc.h>

#include <cassert>

namespace nibblecast {
namespace {

const uint8_t* bytes_of(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

// Letters by use (Other_Alphabetic) whose category is So: circled and squared Latin letters.
bool is_symbol_letter(int32_t code) {
  return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
         (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    if (static_cast<uint8_t>(text[offset]) < 0x80) {
      ++offset;
      continue;
    }
    int32_t code;
    const auto bytes =
        utf8proc_iterate(bytes_of(text) + offset, static_cast<utf8proc_ssize_t>(text.size() - offset), &code);
    if (bytes < 1) return offset;
    offset += static_cast<size_t>(bytes);
  }
  return std::nullopt;
}

Character character_at(std::string_view text, size_t offset) {
  Character character;
  const auto bytes = utf8proc_iterate(bytes_of(text) + offset,
                                      static_cast<utf8proc_ssize_t>(text.size() - offset), &character.code);
  assert(bytes > 0);
  character.bytes = static_cast<size_t>(bytes);
  return character;
}

Character character_before(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return character_at(text, begin);
}

void append_utf8(int32_t code, std::string& to) {
  uint8_t bytes[4];
  const auto count = utf8proc_encode_char(code, bytes);
  to.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

bool is_white_space(int32_t code) {
  return (code >= 0x9 && code <= 0xD) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool is_word(int32_t code) {
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return code == 0x200C || code == 0x200D || is_symbol_letter(code);
  }
}

bool is_numeric(int32_t code) {
  const auto category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

}  // namespace nibblecast
