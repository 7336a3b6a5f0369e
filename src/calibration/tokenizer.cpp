#include "calibration/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "calibration/added_tokens.h"
#include "calibration/bpe.h"
#include "calibration/json_node.h"
#include "calibration/normalizer.h"
#include "calibration/post_processor.h"
#include "calibration/pre_tokenizer.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// The largest known ones have 35 MB.
constexpr uint64_t kMaxFileBytes = 256 << 20;

// Words repeat: their ids are kept while one text is encoded. Longer pieces hardly do.
constexpr size_t kCachedPieceBytes = 64;
constexpr size_t kCachedPieces = 1 << 16;
using PieceCache = std::unordered_map<std::string, std::vector<int32_t>>;

void append_piece(const Bpe& model, std::string_view piece, PieceCache& cache, std::vector<int32_t>& ids) {
  if (piece.size() > kCachedPieceBytes) return model.encode(piece, ids);
  if (cache.size() >= kCachedPieces) cache.clear();
  const auto [entry, is_new] = cache.try_emplace(std::string(piece));
  if (is_new) model.encode(piece, entry->second);
  ids.insert(ids.end(), entry->second.begin(), entry->second.end());
}

}  // namespace

// The parts in the order in which a text passes them.
struct Tokenizer::Impl {
  explicit Impl(const JsonNode& json)
      : model(json.at("model")),
        normalizer(json.find("normalizer")),
        added(json.find("added_tokens"), model, normalizer),
        pre_tokenizer(make_pre_tokenizer(json.find("pre_tokenizer"))),
        post_processor(json.find("post_processor")) {
    pre_tokenizer->add_rules(cut_rules);
    if (!normalizer.is_local()) cut_rules.is_known = false;
  }

  // How many ids the text itself may have.
  size_t max_text_ids(bool add_special_tokens, size_t max_ids) const {
    return max_ids - std::min(max_ids, add_special_tokens ? post_processor.added() : 0);
  }

  Bpe model;
  Normalizer normalizer;
  AddedTokens added;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  PostProcessor post_processor;
  CutRules cut_rules;
};

namespace {

[[noreturn]] void fail_too_long(const EncodeOptions& options) {
  throw Error(ErrorKind::kRefused, {.file = options.origin},
              "a word, as the tokenizer splits texts, is longer than can be held",
              {.expected = "less than " + std::to_string(options.max_held_bytes) + " bytes",
               .hint = options.max_held_bytes < EncodeOptions::kMostWordBytes ? "raise --memory"
                                                                              : "is this a text?"});
}

// What a text is split into before the model: tokens, and pieces.
struct SplitText {
  std::vector<Segment> segments;
  std::vector<Pieces> pieces;  // of each segment that is no token, as long as `segments`

  bool is_closed() const { return !segments.empty() && !segments.back().id && pieces.back().is_closed; }
};

}  // namespace

// Encodes one text, from left to right.
class Tokenizer::Encoder {
 public:
  Encoder(const Impl& tokenizer, size_t max_ids) : tokenizer_(tokenizer), max_ids_(max_ids) {}

  bool is_full() const { return ids_.size() >= max_ids_; }
  std::vector<int32_t> take() {
    if (ids_.size() > max_ids_) ids_.resize(max_ids_);
    return std::move(ids_);
  }

  SplitText split(std::string_view text) const {
    SplitText split{.segments = tokenizer_.added.split(text), .pieces = {}};
    split.pieces.reserve(
        split.segments.size());  // their views are into strings of their own, which must not move
    for (const Segment& segment : split.segments) {
      Pieces& pieces = split.pieces.emplace_back();
      if (segment.id) continue;
      pieces.views = {segment.text};
      pieces.begins_text = &segment == &split.segments.front();
      tokenizer_.pre_tokenizer->apply(pieces);
    }
    return split;
  }

  void append(const SplitText& split) {
    for (size_t i = 0; i < split.segments.size() && !is_full(); ++i) {
      if (split.segments[i].id) ids_.push_back(*split.segments[i].id);
      for (const std::string_view piece : split.pieces[i].views) {
        if (is_full()) break;
        append_piece(tokenizer_.model, piece, cache_, ids_);
      }
    }
  }

  // At the end of a text that goes on: what is not looked at for places to cut.
  size_t unsearched_bytes() const { return tokenizer_.added.longest_bytes() + kLongestCharacter; }

  // Encodes the text before a place where it may be cut, between `from` and the end of `text` less the
  // longest token, and gives that place; nullopt if there is none.
  std::optional<size_t> append_until_cut(std::string_view text, size_t from) {
    size_t at = text.size() - std::min(text.size(), unsearched_bytes());
    for (size_t tries = 0; at > from && tries < kMostTries; --at) {
      if (!may_cut(text, at)) continue;
      ++tries;
      const SplitText before = split(text.substr(0, at));
      if (!before.is_closed()) continue;
      append(before);
      return at;
    }
    return std::nullopt;
  }

 private:
  // Splitting costs more than looking further.
  static constexpr size_t kMostTries = 8;

  bool may_cut(std::string_view text, size_t at) {
    const bool is_within_character = (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
    const CutRules& rules = tokenizer_.cut_rules;
    if (is_within_character || !rules.is_known || rules.patterns.empty()) return false;
    const Atoms& before = atoms_of(text, at - character_before(text, at).bytes);
    const Atoms& behind = atoms_of(text, at);
    for (size_t i = 0; i < rules.patterns.size(); ++i) {
      if (!rules.patterns[i]->allow(before[i], behind[i])) return false;
    }
    return tokenizer_.added.allows_cut(text, at);
  }

  // Of each pattern those that match the character at `offset`.
  using Atoms = std::vector<uint64_t>;
  const Atoms& atoms_of(std::string_view text, size_t offset) {
    const Character character = character_at(text, offset);
    const auto [entry, is_new] = atoms_.try_emplace(character.code);
    if (is_new) {
      for (const PatternCuts* pattern : tokenizer_.cut_rules.patterns) {
        entry->second.push_back(pattern->atoms_of(text.substr(offset, character.bytes)));
      }
    }
    return entry->second;
  }

  const Impl& tokenizer_;
  size_t max_ids_;
  std::vector<int32_t> ids_;
  PieceCache cache_;
  std::unordered_map<int32_t, Atoms> atoms_;  // stay where they are when it grows
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(FileSystem& files, const std::filesystem::path& tokenizer_json) {
  const std::string file = tokenizer_json.string();
  const Json json = parse_json(read_text(files, tokenizer_json, kMaxFileBytes), file);
  const JsonNode root(json, file);
  if (const auto version = root.find("version"); version && version->text() != "1.0") {
    version->unsupported("version '" + version->text() + "'");
  }
  return Tokenizer(std::make_unique<Impl>(root));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens, size_t max_ids) const {
  if (const auto offset = find_invalid_utf8(text)) {
    throw Error(ErrorKind::kBadInput, {.offset = *offset}, "text is not UTF-8");
  }
  Encoder encoder(*impl_, impl_->max_text_ids(add_special_tokens, max_ids));
  encoder.append(encoder.split(text));
  return impl_->post_processor.apply(encoder.take(), add_special_tokens);
}

std::vector<int32_t> Tokenizer::encode(const TextParts& text, const EncodeOptions& options) const {
  Encoder encoder(*impl_, impl_->max_text_ids(options.add_special_tokens, options.max_ids));
  std::string window;
  size_t wanted = options.window_bytes;
  size_t searched = 0;  // of the window: no place to cut it was found
  bool is_at_end = false;
  while (!encoder.is_full()) {
    while (!is_at_end && window.size() < std::min(wanted, options.max_held_bytes)) is_at_end = !text(window);
    if (is_at_end) {
      encoder.append(encoder.split(window));
      break;
    }
    if (const auto cut = encoder.append_until_cut(window, searched)) {
      window.erase(0, *cut);
      wanted = options.window_bytes;
      searched = 0;
      continue;
    }
    if (window.size() >= options.max_held_bytes) fail_too_long(options);
    wanted = 2 * window.size();
    searched = window.size() - std::min(window.size(), encoder.unsearched_bytes());
  }
  return impl_->post_processor.apply(encoder.take(), options.add_special_tokens);
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto added = impl_->added.id(std::string(token));
  return added ? added : impl_->model.id(token);
}

bool Tokenizer::adds_prefix(int32_t id) const {
  const std::vector<int32_t> ids = encode("");
  return !ids.empty() && ids.front() == id;
}

size_t Tokenizer::vocab_size() const {
  const int32_t highest =
      std::max({impl_->model.highest_id(), impl_->added.highest_id(), impl_->post_processor.highest_id()});
  return static_cast<size_t>(highest) + 1;
}

}  // namespace nibblecast
