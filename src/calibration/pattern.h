// calibration/pattern.h - a regular expression, and the pieces of a text that it matches and leaves.
// Oniguruma in its own syntax over UTF-8, as the `tokenizers` library compiles patterns.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nibblecast {

struct TextSpan {
  size_t begin = 0;  // byte offsets
  size_t end = 0;
  bool is_match = false;
};

// Immutable after construction: safe from several threads.
class Pattern {
 public:
  // `origin` names file and place for messages. kBadInput if the expression does not compile.
  static Pattern regex(const std::string& expression, std::string origin);
  static Pattern literal(const std::string& text, std::string origin);
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

  // Contiguous spans that cover the whole of `text` (not empty, valid UTF-8): leftmost matches, one after
  // the other, and what lies between them. An empty match is a span of its own unless it directly follows a
  // match. kBadInput if backtracking exceeds what any sensible pattern needs.
  std::vector<TextSpan> split(std::string_view text) const;
  // Whether one match holds all of `text`.
  bool matches(std::string_view text) const;
  // In Oniguruma's syntax.
  const std::string& expression() const;

 private:
  struct Compiled;
  explicit Pattern(std::unique_ptr<Compiled> compiled);
  std::unique_ptr<Compiled> compiled_;
};

class JsonNode;
// Of a tokenizer.json: {"Regex": ...} or {"String": ...}.
Pattern read_pattern(const JsonNode& json);

}  // namespace nibblecast
