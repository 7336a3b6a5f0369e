#include "calibration/bpe.h"

#include <fmt/format.h>

#include <queue>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "calibration/utf8.h"

namespace nibblecast {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// "a b" or ["a", "b"].
std::pair<std::string, std::string> halves(const JsonNode& merge) {
  if (!merge.is_text()) {
    if (merge.size() != 2) merge.fail("a merge is not of two tokens");
    return {merge.at(size_t{0}).text(), merge.at(size_t{1}).text()};
  }
  const std::string& text = merge.text();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    merge.fail("a merge is not two tokens with one space between");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

void refuse_unsupported(const JsonNode& json) {
  if (const auto type = json.find("type"); type && type->text() != "BPE") {
    json.unsupported("model '" + type->text() + "'");
  }
  if (const auto dropout = json.find("dropout"); dropout && !dropout->is_zero()) {
    dropout->unsupported("dropout (which makes ids random)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = json.find(key); affix && !affix->text().empty()) affix->unsupported("an affix");
  }
}

}  // namespace

Bpe::Bpe(const JsonNode& json) {
  refuse_unsupported(json);
  read_vocabulary(json.at("vocab"));
  read_merges(json.at("merges"));
  if (json.flag_or("byte_fallback", false)) {
    for (int byte = 0; byte < 256; ++byte) byte_ids_.push_back(id(fmt::format("<0x{:02X}>", byte)));
  }
  if (const auto unknown = json.find("unk_token")) {
    unknown_ = id(unknown->text());
    if (!unknown_) unknown->fail("'" + unknown->text() + "' is not in the vocabulary");
  }
  fuse_unknown_ = json.flag_or("fuse_unk", false);
  ignore_merges_ = json.flag_or("ignore_merges", false);
}

void Bpe::read_vocabulary(const JsonNode& vocabulary) {
  std::unordered_set<int32_t> seen;
  vocabulary.each([&](const std::string& token, const JsonNode& node) {
    const int32_t id = node.token_id();
    if (!seen.insert(id).second) node.fail("id " + std::to_string(id) + " appears twice");
    ids_.emplace(token, id);
    highest_id_ = std::max(highest_id_, id);
  });
  if (ids_.empty()) vocabulary.fail("the vocabulary is empty");
}

void Bpe::read_merges(const JsonNode& merges) {
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const JsonNode merge = merges.at(i);
    // A comment that old files carry over from merges.txt.
    if (merge.is_text() && merge.text().starts_with("#version")) continue;
    const auto [left, right] = halves(merge);
    const int32_t left_id = token_of_merge(merge, left);
    const int32_t right_id = token_of_merge(merge, right);
    // Of the same pair twice, the later merge counts, as in the library.
    merges_[pair_key(left_id, right_id)] = {rank++, token_of_merge(merge, left + right)};
  }
}

int32_t Bpe::token_of_merge(const JsonNode& merge, const std::string& token) const {
  const auto found = id(token);
  if (!found) merge.fail("'" + token + "' is not in the vocabulary");
  return *found;
}

std::optional<int32_t> Bpe::id(std::string_view token) const {
  const auto entry = ids_.find(token);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

const Bpe::Merge* Bpe::merge(int32_t left, int32_t right) const {
  const auto entry = merges_.find(pair_key(left, right));
  return entry == merges_.end() ? nullptr : &entry->second;
}

bool Bpe::append_bytes(std::string_view character, std::vector<int32_t>& ids) const {
  if (byte_ids_.empty()) return false;
  for (const char byte : character) {
    if (!byte_ids_[static_cast<uint8_t>(byte)]) return false;
  }
  for (const char byte : character) ids.push_back(*byte_ids_[static_cast<uint8_t>(byte)]);
  return true;
}

// One id per character; what the vocabulary lacks becomes its bytes or the unknown token, and without
// either it vanishes. An unknown token is held back until the next known character, so byte tokens overtake
// it: the library does so, and its ids are the contract.
std::vector<int32_t> Bpe::symbols(std::string_view piece) const {
  std::vector<int32_t> ids;
  ids.reserve(piece.size());
  bool unknown_waits = false;
  for (size_t offset = 0; offset < piece.size();) {
    const std::string_view character = piece.substr(offset, character_at(piece, offset).bytes);
    offset += character.size();
    if (const auto known = id(character)) {
      if (std::exchange(unknown_waits, false)) ids.push_back(*unknown_);
      ids.push_back(*known);
    } else if (!append_bytes(character, ids) && unknown_) {
      if (unknown_waits && !fuse_unknown_) ids.push_back(*unknown_);
      unknown_waits = true;
    }
  }
  if (unknown_waits) ids.push_back(*unknown_);
  return ids;
}

// Merges the symbols of one piece: the pair of lowest rank first, the leftmost of equals.
class Bpe::Merger {
 public:
  Merger(const Bpe& bpe, const std::vector<int32_t>& ids) : bpe_(bpe) {
    const auto count = static_cast<int32_t>(ids.size());
    symbols_.reserve(ids.size());
    for (int32_t at = 0; at < count; ++at) {
      symbols_.push_back({ids[static_cast<size_t>(at)], at - 1, at + 1 < count ? at + 1 : kNone});
    }
    for (int32_t at = 0; at + 1 < count; ++at) offer(at);
  }

  void run() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (is_current(best)) apply(best);
    }
  }

  void append_to(std::vector<int32_t>& ids) const {
    for (const Symbol& symbol : symbols_) {
      if (symbol.id != kGone) ids.push_back(symbol.id);
    }
  }

 private:
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kGone = -1;

  struct Symbol {
    int32_t id;  // kGone once merged into its left neighbour
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t at;  // of the left symbol
    int32_t id;  // what the merge makes
    bool operator>(const Candidate& other) const {
      return std::tie(rank, at) > std::tie(other.rank, other.at);
    }
  };

  Symbol& symbol(int32_t at) { return symbols_[static_cast<size_t>(at)]; }

  void offer(int32_t at) {
    const int32_t next = symbol(at).next;
    if (next == kNone) return;
    if (const Merge* merge = bpe_.merge(symbol(at).id, symbol(next).id)) {
      candidates_.push({merge->rank, at, merge->id});
    }
  }

  // False if one of the two symbols was merged otherwise meanwhile.
  bool is_current(const Candidate& candidate) {
    const Symbol& left = symbol(candidate.at);
    if (left.id == kGone || left.next == kNone) return false;
    const Merge* merge = bpe_.merge(left.id, symbol(left.next).id);
    return merge != nullptr && merge->id == candidate.id;
  }

  void apply(const Candidate& candidate) {
    Symbol& left = symbol(candidate.at);
    Symbol& right = symbol(left.next);
    left.id = candidate.id;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kNone) symbol(left.next).previous = candidate.at;
    if (left.previous != kNone) offer(left.previous);
    offer(candidate.at);
  }

  const Bpe& bpe_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates_;
};

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = id(piece)) {
      ids.push_back(*whole);
      return;
    }
  }
  Merger merger(*this, symbols(piece));
  merger.run();
  merger.append_to(ids);
}

}  // namespace nibblecast
