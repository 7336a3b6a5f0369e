#include "plan/glob.h"

#include <cstddef>

namespace nibblecast {
namespace {

// One place of a pattern that matches one byte.
struct Single {
  bool matches = false;
  size_t length = 1;  // of the pattern's text
};

bool in_set(std::string_view set, char byte) {
  for (size_t at = 0; at < set.size(); ++at) {
    const bool is_range = at + 2 < set.size() && set[at + 1] == '-';
    if (is_range && set[at] <= byte && byte <= set[at + 2]) return true;
    if (!is_range && set[at] == byte) return true;
    if (is_range) at += 2;
  }
  return false;
}

Single match_single(std::string_view pattern, char byte) {
  if (pattern[0] == '?') return {true, 1};
  if (pattern[0] == '[') {
    const bool negated = pattern.size() > 1 && pattern[1] == '!';
    const size_t begin = negated ? 2 : 1;
    // A `]` in the first place belongs to the set.
    const size_t end = pattern.find(']', begin + 1);
    if (end != std::string_view::npos) {
      return {in_set(pattern.substr(begin, end - begin), byte) != negated, end + 1};
    }
  }
  return {pattern[0] == byte, 1};
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  size_t at = 0, in_pattern = 0;
  // Only the last star need ever take more: what came before it has matched as early as it can.
  size_t after_star = std::string_view::npos, star_end = 0;
  while (at < text.size() || in_pattern < pattern.size()) {
    if (in_pattern < pattern.size() && pattern[in_pattern] == '*') {
      after_star = ++in_pattern;
      star_end = at;
      continue;
    }
    if (in_pattern < pattern.size() && at < text.size()) {
      const Single single = match_single(pattern.substr(in_pattern), text[at]);
      if (single.matches) {
        ++at;
        in_pattern += single.length;
        continue;
      }
    }
    if (after_star == std::string_view::npos || star_end == text.size()) return false;
    at = ++star_end;
    in_pattern = after_star;
  }
  return true;
}

}  // namespace nibblecast
