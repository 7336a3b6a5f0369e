// calibration/pre_tokenizer.h - the `pre_tokenizer` of a tokenizer.json: cuts text into the pieces that the
// model encodes one by one.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/json_node.h"
#include "calibration/pattern_cuts.h"

namespace nibblecast {

// Pieces of one text, none empty, each a view into a string that the steps keep.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> strings;  // a deque: growing it does not move them
  // Whether a match ends the text, so that whatever follows begins a piece of its own.
  bool is_closed = false;
  bool begins_text = false;  // no token, and no other piece, stands before
};

// Where a text may be cut so that the pieces of the two parts are those of the whole: between two characters
// that all `patterns` allow, if the first part's pieces are closed. (Between two such characters no step has
// a match on both sides. A step that finds a match up to the cut makes a border there; the steps before and
// behind it then find the same on both sides, as they would in the whole.)
struct CutRules {
  std::vector<const PatternCuts*> patterns;
  bool is_known = true;   // false: no such place can be told
  bool sees_text = true;  // while rules are gathered: the next step's pieces hold the characters of the text
};

// A visible character for each byte: printable Latin-1 stands for itself, the other 68 bytes become
// U+0100, U+0101, ... in order (openai/gpt-2, src/encoder.py, bytes_to_unicode).
std::array<std::string, 256> byte_characters();

// One step. Immutable: safe from several threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
  // Adds this step's rules to those of the steps before it.
  virtual void add_rules(CutRules& rules) const = 0;
};

// nullopt (the file has null): one step that changes nothing. Split, Digits, ByteLevel, Metaspace and
// Sequence; kUnsupported for any other type, by name.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const std::optional<JsonNode>& json);

}  // namespace nibblecast
