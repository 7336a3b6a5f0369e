// calibration/added_tokens.h - tokens that a tokenizer.json adds beside its model: found in the text before
// anything splits it. Those with `normalized` are sought in the normalized text, the others in the raw one.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "calibration/bpe.h"
#include "calibration/json_node.h"
#include "calibration/normalizer.h"

namespace nibblecast {

// Strings by their bytes, for the longest one at a place in a text.
class ByteTrie {
 public:
  void add(std::string_view key, int32_t value);  // not empty; a key that is there keeps the later value
  struct Match {
    size_t bytes = 0;
    int32_t value = 0;
  };
  std::optional<Match> longest_at(std::string_view text, size_t offset) const;
  // Whether a key begins at `offset` and ends at `end` or behind it.
  bool reaches(std::string_view text, size_t offset, size_t end) const;
  size_t longest_bytes() const { return longest_bytes_; }

 private:
  std::array<bool, 256> starts_{};  // first bytes of all keys: most places of a text need no more
  std::unordered_map<uint64_t, uint32_t> next_;  // node * 256 + byte -> node
  std::unordered_map<uint32_t, int32_t> values_;
  uint32_t nodes_ = 1;
  size_t longest_bytes_ = 0;
};

// A piece of text, or a token found in it.
struct Segment {
  std::string text;
  std::optional<int32_t> id;
};

// Immutable: safe from several threads.
class AddedTokens {
 public:
  // kBadInput: an id other than the vocabulary's, or than the next free one where the vocabulary lacks the
  // token (the library would ignore such an id and assign another).
  AddedTokens(const std::optional<JsonNode>& json, const Bpe& model, const Normalizer& normalizer);

  // Splits at the tokens: leftmost first, the longest of several. What lies between comes normalized.
  std::vector<Segment> split(std::string_view text) const;
  // Whether split() of the two parts of a text that is cut at `at` gives what it gives of the whole: no token
  // touches the cut, no white space that one could take stands before it, and neither character joins with
  // the other in any normal form. False where that cannot be told. Looks at longest_bytes() on both sides.
  bool allows_cut(std::string_view text, size_t at) const;
  size_t longest_bytes() const;
  std::optional<int32_t> id(const std::string& content) const;
  int32_t highest_id() const;  // -1 if there are none

 private:
  struct Token {
    std::string content;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
    bool normalized = true;
  };
  static Token read(const JsonNode& json);
  void index_tokens();
  void split_at(const ByteTrie& trie, std::string_view text, std::vector<Segment>& to) const;

  const Normalizer* normalizer_;
  std::map<int32_t, Token> tokens_;
  std::map<std::string, int32_t> ids_;
  ByteTrie raw_;
  ByteTrie normalized_;
};

}  // namespace nibblecast
