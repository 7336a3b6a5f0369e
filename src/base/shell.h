// base/shell.h - words that can be pasted into a shell.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace nibblecast {

bool is_utf8(std::string_view text);

// The word as it is where it needs no quotes, else 'quoted'; bytes that do not print, or are not UTF-8, as
// $'\xe9'.
std::string shell_word(std::string_view word);
// All of them, with blanks between.
std::string shell_words(std::span<const std::string> words);

}  // namespace nibblecast
