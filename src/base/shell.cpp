#include "base/shell.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"

namespace nibblecast {
namespace {

bool is_plain(char letter) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
  return kPlain.find(letter) != std::string_view::npos;
}

bool is_control(char letter) {
  return static_cast<unsigned char>(letter) < 0x20 || static_cast<unsigned char>(letter) == 0x7f;
}

}  // namespace

bool is_utf8(std::string_view text) {
  try {
    return !Json(text).dump().empty();
  } catch (const Json::exception&) {
    return false;
  }
}

std::string shell_word(std::string_view word) {
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return std::string(word);
  const bool prints = std::ranges::none_of(word, is_control) && is_utf8(word);
  std::string quoted = prints ? "'" : "$'";
  for (const char letter : word) {
    if (prints) {
      quoted += letter == '\'' ? "'\\''" : std::string(1, letter);
    } else if (is_control(letter) || static_cast<unsigned char>(letter) >= 0x80) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(letter));
    } else {
      quoted += letter == '\'' || letter == '\\' ? std::string("\\") + letter : std::string(1, letter);
    }
  }
  return quoted + "'";
}

std::string shell_words(std::span<const std::string> words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + shell_word(word);
  return text;
}

}  // namespace nibblecast
