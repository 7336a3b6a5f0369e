// calibration/utf8.h - UTF-8 text by characters, and the two character classes added tokens need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nibblecast {

inline constexpr size_t kLongestCharacter = 4;  // bytes

// Byte offset of the first sequence that is not UTF-8 (surrogates and overlong forms are not).
std::optional<size_t> find_invalid_utf8(std::string_view text);

// The character at `offset`, and the one that ends at `end`. `text` is valid UTF-8, the offset at a boundary.
struct Character {
  int32_t code = 0;
  size_t bytes = 0;
};
Character character_at(std::string_view text, size_t offset);
Character character_before(std::string_view text, size_t end);

// `code` is a Unicode scalar value.
void append_utf8(int32_t code, std::string& to);

// The property White_Space of Unicode.
bool is_white_space(int32_t code);
// \w of UTS #18 annex C: Alphabetic, M, Nd, Pc, Join_Control.
bool is_word(int32_t code);
// General category N (Nd, Nl, No).
bool is_numeric(int32_t code);

}  // namespace nibblecast
