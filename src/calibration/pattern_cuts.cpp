#include "calibration/pattern_cuts.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

constexpr size_t kMostAtoms = 64;
constexpr size_t kMostNested = 32;

// Thrown within the parser alone.
struct NotUnderstood {};

// What a part of a pattern can begin and end with.
struct Part {
  uint64_t first = 0, last = 0;  // atoms
  bool is_nullable = false;      // it can match nothing
  bool looks_first = false;      // a lookahead can stand before its first atom
};

}  // namespace

class PatternParser {
 public:
  PatternParser(const std::string& expression, PatternCuts& cuts) : rest_(expression), cuts_(cuts) {}

  Part parse() {
    const Part all = parse_alternatives(0);
    if (!rest_.empty()) throw NotUnderstood();
    return all;
  }

 private:
  Part parse_alternatives(size_t depth) {
    if (depth > kMostNested) throw NotUnderstood();
    Part all = parse_sequence(depth);
    while (take("|")) {
      const Part other = parse_sequence(depth);
      all = {all.first | other.first, all.last | other.last, all.is_nullable || other.is_nullable,
             all.looks_first || other.looks_first};
    }
    return all;
  }

  Part parse_sequence(size_t depth) {
    Part all{.is_nullable = true};
    while (!rest_.empty() && rest_[0] != '|' && rest_[0] != ')') {
      all = joined(all, parse_quantified(depth));
    }
    return all;
  }

  Part joined(const Part& left, const Part& right) {
    link(left, right);
    return {left.first | (left.is_nullable ? right.first : 0),
            right.last | (right.is_nullable ? left.last : 0), left.is_nullable && right.is_nullable,
            left.looks_first || (left.is_nullable && right.looks_first)};
  }

  void link(const Part& left, const Part& right) {
    if (right.looks_first) cuts_.looks_on_ |= left.last;
    for (size_t atom = 0; atom < cuts_.follow_.size(); ++atom) {
      if (left.last >> atom & 1) cuts_.follow_[atom] |= right.first;
    }
  }

  Part parse_quantified(size_t depth) {
    Part part = parse_part(depth);
    while (!rest_.empty()) {
      if (std::strchr("?*+{", rest_[0]) == nullptr) break;
      if (rest_[0] != '?') link(part, part);
      const bool needs_none = rest_[0] == '{' ? skip_interval() : rest_[0] != '+';
      part.is_nullable = part.is_nullable || needs_none;
      rest_.remove_prefix(1);
    }
    return part;
  }

  // "{2}", "{1,3}", "{,3}", "{2,}": whether none is enough.
  bool skip_interval() {
    const size_t end = rest_.find('}');
    if (end == std::string_view::npos || end < 2) throw NotUnderstood();
    const std::string_view inner = rest_.substr(1, end - 1);
    if (inner.find_first_not_of("0123456789,") != std::string_view::npos) throw NotUnderstood();
    rest_.remove_prefix(end);
    return inner[0] == '0' || inner[0] == ',';
  }

  Part parse_part(size_t depth) {
    if (take("(?:") || take("(?>")) return close(parse_alternatives(depth + 1));
    if (take("(?=") || take("(?!")) return parse_lookahead();
    if (take("(?i:")) {
      const bool before = std::exchange(ignores_case_, true);
      const Part part = close(parse_alternatives(depth + 1));
      ignores_case_ = before;
      return part;
    }
    if (rest_.starts_with("(?")) throw NotUnderstood();
    if (take("(")) return close(parse_alternatives(depth + 1));
    return atom(take_atom());
  }

  Part close(const Part& part) {
    if (!take(")")) throw NotUnderstood();
    return part;
  }

  // Of one atom, which reads one character.
  Part parse_lookahead() {
    take_atom();
    return close({.is_nullable = true, .looks_first = true});
  }

  Part atom(std::string_view text) {
    // A class beyond ASCII can match several characters if case is ignored.
    const bool is_ascii =
        std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
    if (ignores_case_ && (!is_ascii || text[0] == '\\')) throw NotUnderstood();
    if (cuts_.atoms_.size() == kMostAtoms) throw NotUnderstood();
    const std::string alone(text);
    const uint64_t bit = uint64_t{1} << cuts_.atoms_.size();
    cuts_.atoms_.push_back(
        {Pattern::regex(ignores_case_ ? "(?i:" + alone + ")" : alone, "atom"), ignores_case_});
    cuts_.follow_.push_back(0);
    return {.first = bit, .last = bit};
  }

  std::string_view take_atom() {
    if (rest_.empty()) throw NotUnderstood();
    size_t bytes = character_at(rest_, 0).bytes;
    if (rest_[0] == '[') {
      bytes = class_bytes();
    } else if (rest_[0] == '\\') {
      bytes = escape_bytes();
    } else if (std::strchr("^$*+?{)|", rest_[0]) != nullptr) {
      throw NotUnderstood();
    }
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  size_t class_bytes() const {
    size_t depth = 0;
    for (size_t at = 0; at < rest_.size(); ++at) {
      if (rest_[at] == '\\') {
        ++at;
      } else if (rest_[at] == '[') {
        ++depth;
        // A "]" that stands first may be a member.
        const size_t inner = rest_.substr(at + 1).starts_with('^') ? at + 2 : at + 1;
        if (rest_.substr(inner).starts_with(']')) throw NotUnderstood();
      } else if (rest_[at] == ']' && --depth == 0) {
        return at + 1;
      }
    }
    throw NotUnderstood();
  }

  // Of one character: \p{...}, a class, a control character, or a sign that is escaped.
  size_t escape_bytes() const {
    if (rest_.size() < 2) throw NotUnderstood();
    const char c = rest_[1];
    if (c == 'p' || c == 'P') {
      const size_t end = rest_.find('}');
      if (!rest_.substr(2).starts_with('{') || end == std::string_view::npos) throw NotUnderstood();
      return end + 1;
    }
    const bool is_sign = static_cast<uint8_t>(c) > 0x20 && static_cast<uint8_t>(c) < 0x7f && !std::isalnum(c);
    if (!is_sign && std::strchr("sSdDwWrnt", c) == nullptr) throw NotUnderstood();
    return 2;
  }

  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  std::string_view rest_;
  PatternCuts& cuts_;
  bool ignores_case_ = false;
};

std::optional<PatternCuts> PatternCuts::of(const std::string& expression) {
  PatternCuts cuts;
  try {
    if (PatternParser(expression, cuts).parse().is_nullable) return std::nullopt;
  } catch (const NotUnderstood&) {
    return std::nullopt;
  } catch (const Error&) {  // what we took for an atom is none
    return std::nullopt;
  }
  return cuts;
}

uint64_t PatternCuts::atoms_of(std::string_view character) const {
  uint64_t atoms = 0;
  for (size_t i = 0; i < atoms_.size(); ++i) {
    const bool is_beyond_ascii = static_cast<uint8_t>(character[0]) >= 0x80;
    if ((atoms_[i].ignores_case && is_beyond_ascii) || atoms_[i].pattern.matches(character)) {
      atoms |= uint64_t{1} << i;
    }
  }
  return atoms;
}

bool PatternCuts::allow(uint64_t before, uint64_t behind) const {
  if ((before & looks_on_) != 0) return false;
  for (size_t i = 0; i < follow_.size(); ++i) {
    if ((before >> i & 1) != 0 && (follow_[i] & behind) != 0) return false;
  }
  return true;
}

}  // namespace nibblecast
