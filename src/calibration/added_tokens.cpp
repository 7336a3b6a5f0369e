#include "calibration/added_tokens.h"

#include <algorithm>

#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// Bounds the walk at each place of a text; known tokens have some 40 bytes.
constexpr size_t kMaxContentBytes = 4096;

uint64_t edge(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<uint8_t>(byte); }

bool is_single_word(std::string_view text, size_t begin, size_t end) {
  const bool word_before = begin > 0 && is_word(character_before(text, begin).code);
  const bool word_after = end < text.size() && is_word(character_at(text, end).code);
  return !word_before && !word_after;
}

size_t skip_space_back(std::string_view text, size_t end) {
  while (end > 0) {
    const Character before = character_before(text, end);
    if (!is_white_space(before.code)) break;
    end -= before.bytes;
  }
  return end;
}

size_t skip_space(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const Character next = character_at(text, begin);
    if (!is_white_space(next.code)) break;
    begin += next.bytes;
  }
  return begin;
}

}  // namespace

void ByteTrie::add(std::string_view key, int32_t value) {
  starts_[static_cast<uint8_t>(key[0])] = true;
  longest_bytes_ = std::max(longest_bytes_, key.size());
  uint32_t node = 0;
  for (const char byte : key) {
    const auto [entry, is_new] = next_.try_emplace(edge(node, byte), nodes_);
    if (is_new) ++nodes_;
    node = entry->second;
  }
  values_[node] = value;
}

std::optional<ByteTrie::Match> ByteTrie::longest_at(std::string_view text, size_t offset) const {
  if (!starts_[static_cast<uint8_t>(text[offset])]) return std::nullopt;
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t end = offset; end < text.size(); ++end) {
    const auto entry = next_.find(edge(node, text[end]));
    if (entry == next_.end()) break;
    node = entry->second;
    if (const auto value = values_.find(node); value != values_.end()) {
      longest = Match{end + 1 - offset, value->second};
    }
  }
  return longest;
}

bool ByteTrie::reaches(std::string_view text, size_t offset, size_t end) const {
  if (!starts_[static_cast<uint8_t>(text[offset])]) return false;
  uint32_t node = 0;
  for (size_t at = offset; at < text.size(); ++at) {
    const auto entry = next_.find(edge(node, text[at]));
    if (entry == next_.end()) return false;
    node = entry->second;
    if (at + 1 >= end && values_.contains(node)) return true;
  }
  return false;
}

AddedTokens::AddedTokens(const std::optional<JsonNode>& json, const Bpe& model, const Normalizer& normalizer)
    : normalizer_(&normalizer) {
  if (!json) return;
  // The library gives a token that the vocabulary lacks the next free id, counted from the vocabulary's size.
  auto next = static_cast<int32_t>(model.size());
  for (size_t i = 0; i < json->size(); ++i) {
    const JsonNode node = json->at(i);
    Token token = read(node);
    if (token.content.empty()) continue;
    auto expected = model.id(token.content);
    if (!expected) expected = id(token.content);
    if (!expected) expected = next++;
    const int32_t found = node.at("id").token_id();
    if (found != *expected) {
      node.at("id").fail("added token '" + token.content + "' has another id than its vocabulary gives it",
                         {.expected = std::to_string(*expected), .found = std::to_string(found)});
    }
    ids_[token.content] = found;
    tokens_[found] = std::move(token);
  }
  index_tokens();
}

AddedTokens::Token AddedTokens::read(const JsonNode& json) {
  Token token{.content = json.at("content").text(),
              .single_word = json.flag_or("single_word", false),
              .lstrip = json.flag_or("lstrip", false),
              .rstrip = json.flag_or("rstrip", false),
              .normalized = json.flag_or("normalized", true)};
  if (token.content.size() > kMaxContentBytes) {
    json.unsupported("an added token of more than " + std::to_string(kMaxContentBytes) + " bytes");
  }
  return token;
}

void AddedTokens::index_tokens() {
  for (const auto& [id, token] : tokens_) {
    if (token.normalized) {
      normalized_.add(normalizer_->apply(token.content), id);
    } else {
      raw_.add(token.content, id);
    }
  }
}

std::vector<Segment> AddedTokens::split(std::string_view text) const {
  std::vector<Segment> raw;
  split_at(raw_, text, raw);
  std::vector<Segment> segments;
  for (Segment& segment : raw) {
    if (segment.id) {
      segments.push_back(std::move(segment));
    } else {
      split_at(normalized_, normalizer_->apply(segment.text), segments);
    }
  }
  return segments;
}

size_t AddedTokens::longest_bytes() const {
  return std::max(raw_.longest_bytes(), normalized_.longest_bytes());
}

bool AddedTokens::allows_cut(std::string_view text, size_t at) const {
  const int32_t before = character_before(text, at).code;
  if (is_white_space(before)) return false;
  if (!normalizer_->is_empty()) {
    // Tokens would have to be sought in the normalized text.
    if (normalized_.longest_bytes() > 0) return false;
    if (!is_inert(before) || !is_inert(character_at(text, at).code)) return false;
  }
  for (size_t begin = at - std::min(at, longest_bytes()); begin <= at; ++begin) {
    if (raw_.reaches(text, begin, at) || normalized_.reaches(text, begin, at)) return false;
  }
  return true;
}

std::optional<int32_t> AddedTokens::id(const std::string& content) const {
  const auto entry = ids_.find(content);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

int32_t AddedTokens::highest_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }

// The arithmetic is the library's, so that overlapping cases agree too: the search goes on behind the
// token itself, while `covered` is behind the space it stripped.
void AddedTokens::split_at(const ByteTrie& trie, std::string_view text, std::vector<Segment>& to) const {
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    const auto match = trie.longest_at(text, at);
    if (!match) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + match->bytes;
    at = end;
    const Token& token = tokens_.at(match->value);
    if (token.single_word && !is_single_word(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(skip_space_back(text, begin), covered);
    if (token.rstrip) end = skip_space(text, end);
    if (covered < begin) to.push_back({std::string(text.substr(covered, begin - covered)), std::nullopt});
    to.push_back({{}, match->value});
    covered = end;
  }
  if (covered < text.size()) to.push_back({std::string(text.substr(covered)), std::nullopt});
}

}  // namespace nibblecast
