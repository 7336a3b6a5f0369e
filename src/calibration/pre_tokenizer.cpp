#include "calibration/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <map>

#include "calibration/pattern.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// What becomes of a match: dropped, a piece of its own, joined to a neighbour, or joined to its kind.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// A match joins the span before it, unless that is a match too.
std::vector<TextSpan> merge_with_previous(const std::vector<TextSpan>& spans) {
  std::vector<TextSpan> merged;
  bool after_match = false;
  for (const TextSpan& span : spans) {
    if (span.is_match && !after_match && !merged.empty()) {
      merged.back().end = span.end;
    } else {
      merged.push_back(span);
    }
    after_match = span.is_match;
  }
  return merged;
}

std::vector<TextSpan> merge_with_next(const std::vector<TextSpan>& spans) {
  std::vector<TextSpan> merged;
  bool before_match = false;
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    if (span->is_match && !before_match && !merged.empty()) {
      merged.back().begin = span->begin;
    } else {
      merged.push_back(*span);
    }
    before_match = span->is_match;
  }
  std::reverse(merged.begin(), merged.end());
  return merged;
}

std::vector<TextSpan> merge_equal(const std::vector<TextSpan>& spans) {
  std::vector<TextSpan> merged;
  for (const TextSpan& span : spans) {
    if (!merged.empty() && merged.back().is_match == span.is_match) {
      merged.back().end = span.end;
    } else {
      merged.push_back(span);
    }
  }
  return merged;
}

std::vector<TextSpan> arrange(std::vector<TextSpan> spans, Behavior behavior) {
  switch (behavior) {
    case Behavior::kRemoved:
      std::erase_if(spans, [](const TextSpan& span) { return span.is_match; });
      return spans;
    case Behavior::kIsolated:
      return spans;
    case Behavior::kMergedWithPrevious:
      return merge_with_previous(spans);
    case Behavior::kMergedWithNext:
      return merge_with_next(spans);
    case Behavior::kContiguous:
      return merge_equal(spans);
  }
  return spans;
}

// Whether a border follows a match that ends a text, whatever stands behind.
bool closes(const std::vector<TextSpan>& spans, Behavior behavior) {
  const bool is_match = !spans.empty() && spans.back().is_match && spans.back().begin < spans.back().end;
  return is_match && behavior != Behavior::kMergedWithNext && behavior != Behavior::kContiguous;
}

// Replaces each piece by those that `find` (text -> spans) and `behavior` make of it.
template <class F>
void split_pieces(Pieces& pieces, Behavior behavior, const F& find) {
  std::vector<std::string_view> views;
  bool is_closed = false;
  for (const std::string_view piece : pieces.views) {
    std::vector<TextSpan> spans = find(piece);
    is_closed = closes(spans, behavior);
    for (const TextSpan& span : arrange(std::move(spans), behavior)) {
      if (span.begin < span.end) views.push_back(piece.substr(span.begin, span.end - span.begin));
    }
  }
  pieces.views = std::move(views);
  pieces.is_closed = pieces.is_closed || is_closed;
}

void add_rule(CutRules& rules, const std::optional<PatternCuts>& cuts) {
  if (!cuts) rules.is_known = false;
  if (cuts) rules.patterns.push_back(&*cuts);
}

class Split : public PreTokenizer {
 public:
  explicit Split(const JsonNode& json)
      : pattern_(read_pattern(json.at("pattern"))),
        cuts_(PatternCuts::of(pattern_.expression())),
        behavior_(read_behavior(json.at("behavior"))),
        invert_(json.flag_or("invert", false)) {}

  void apply(Pieces& pieces) const override {
    split_pieces(pieces, behavior_, [&](std::string_view piece) {
      std::vector<TextSpan> spans = pattern_.split(piece);
      if (invert_) {
        for (TextSpan& span : spans) span.is_match = !span.is_match;
      }
      return spans;
    });
  }

  // Inverted, what lies between matches counts as matches, and the rules say nothing of that.
  void add_rules(CutRules& rules) const override {
    if (invert_) rules.is_known = false;
    add_rule(rules, cuts_);
  }

 private:
  static Behavior read_behavior(const JsonNode& json) {
    static const std::map<std::string, Behavior> kBehaviors = {
        {"Removed", Behavior::kRemoved},
        {"Isolated", Behavior::kIsolated},
        {"MergedWithPrevious", Behavior::kMergedWithPrevious},
        {"MergedWithNext", Behavior::kMergedWithNext},
        {"Contiguous", Behavior::kContiguous}};
    const auto entry = kBehaviors.find(json.text());
    if (entry == kBehaviors.end()) json.unsupported("behavior '" + json.text() + "'");
    return entry->second;
  }

  Pattern pattern_;
  std::optional<PatternCuts> cuts_;
  Behavior behavior_;
  bool invert_;
};

class Digits : public PreTokenizer {
 public:
  explicit Digits(const JsonNode& json)
      : behavior_(json.flag_or("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous),
        cuts_(PatternCuts::of(behavior_ == Behavior::kIsolated ? "\\p{N}" : "\\p{N}+")) {}

  void apply(Pieces& pieces) const override { split_pieces(pieces, behavior_, mark_digits); }
  void add_rules(CutRules& rules) const override { add_rule(rules, cuts_); }

 private:
  // Each digit a match of its own.
  static std::vector<TextSpan> mark_digits(std::string_view piece) {
    std::vector<TextSpan> spans;
    for (size_t offset = 0; offset < piece.size();) {
      const Character character = character_at(piece, offset);
      const size_t end = offset + character.bytes;
      const bool is_digit = is_numeric(character.code);
      if (is_digit || spans.empty() || spans.back().is_match) {
        spans.push_back({offset, end, is_digit});
      } else {
        spans.back().end = end;
      }
      offset = end;
    }
    return spans;
  }

  Behavior behavior_;
  std::optional<PatternCuts> cuts_;
};

class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonNode& json)
      : add_prefix_space_(json.at("add_prefix_space").flag()),
        use_regex_(json.flag_or("use_regex", true)),
        words_(Pattern::regex(kWords, json.file() + ": " + json.path())),
        cuts_(PatternCuts::of(kWords)) {}

  void apply(Pieces& pieces) const override {
    if (add_prefix_space_) {
      for (std::string_view& piece : pieces.views) {
        if (!piece.starts_with(' ')) piece = pieces.strings.emplace_back(" " + std::string(piece));
      }
    }
    if (use_regex_) {
      split_pieces(pieces, Behavior::kIsolated, [&](std::string_view piece) { return words_.split(piece); });
    }
    spell_bytes(pieces);
  }

  // A space in front would stand at each cut. Steps behind this one see other characters than the text's.
  void add_rules(CutRules& rules) const override {
    if (add_prefix_space_) rules.is_known = false;
    if (use_regex_) add_rule(rules, cuts_);
    rules.sees_text = false;
  }

 private:
  // openai/gpt-2, src/encoder.py.
  static constexpr const char* kWords =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  static void spell_bytes(Pieces& pieces) {
    static const std::array<std::string, 256> kCharacters = byte_characters();
    size_t bytes = 0;
    for (const std::string_view piece : pieces.views) bytes += piece.size();
    // Room for all first: the views point into it.
    std::string& spelled = pieces.strings.emplace_back();
    spelled.reserve(2 * bytes);
    for (std::string_view& piece : pieces.views) {
      const size_t begin = spelled.size();
      for (const char byte : piece) spelled += kCharacters[static_cast<uint8_t>(byte)];
      piece = std::string_view(spelled).substr(begin);
    }
  }

  bool add_prefix_space_;
  bool use_regex_;
  Pattern words_;
  std::optional<PatternCuts> cuts_;
};

// Sentencepiece's spelling of words: spaces become a character, in front of which words begin, and the text
// is given one where it does not begin with a space.
class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(const JsonNode& json)
      : space_(json.at("replacement").text()),
        splits_(json.flag_or("split", true)),
        prepend_(read_scheme(json)),
        spaces_(Pattern::literal(space_, json.file() + ": " + json.path())) {
    if (space_.empty() || character_at(space_, 0).bytes != space_.size())
      json.fail("'replacement' is not one character");
  }

  void apply(Pieces& pieces) const override {
    for (size_t i = 0; i < pieces.views.size(); ++i)
      pieces.views[i] = pieces.strings.emplace_back(spell(pieces.views[i], pieces.begins_text && i == 0));
    if (splits_)
      split_pieces(pieces, Behavior::kMergedWithNext,
                   [&](std::string_view piece) { return spaces_.split(piece); });
  }

  // What is given to the text would stand at each cut.
  void add_rules(CutRules& rules) const override {
    rules.is_known = false;
    rules.sees_text = false;
  }

 private:
  enum class Scheme { kAlways, kFirst, kNever };

  static Scheme read_scheme(const JsonNode& json) {
    const auto scheme = json.find("prepend_scheme");
    if (!scheme) return json.flag_or("add_prefix_space", true) ? Scheme::kAlways : Scheme::kNever;
    if (scheme->text() == "always") return Scheme::kAlways;
    if (scheme->text() == "first") return Scheme::kFirst;
    if (scheme->text() != "never") scheme->unsupported("prepend_scheme '" + scheme->text() + "'");
    return Scheme::kNever;
  }

  std::string spell(std::string_view piece, bool is_first) const {
    std::string spelled;
    for (const char byte : piece) {
      if (byte == ' ')
        spelled += space_;
      else
        spelled += byte;
    }
    const bool prepends = prepend_ == Scheme::kAlways || (prepend_ == Scheme::kFirst && is_first);
    return prepends && !spelled.starts_with(space_) ? space_ + spelled : spelled;
  }

  std::string space_;
  bool splits_;
  Scheme prepend_;
  Pattern spaces_;
};

class Sequence : public PreTokenizer {
 public:
  void add(std::unique_ptr<PreTokenizer> step) { steps_.push_back(std::move(step)); }
  void apply(Pieces& pieces) const override {
    for (const auto& step : steps_) step->apply(pieces);
  }
  void add_rules(CutRules& rules) const override {
    for (const auto& step : steps_) {
      if (!rules.sees_text) rules.is_known = false;
      step->add_rules(rules);
    }
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

}  // namespace

std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> characters;
  int32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
    const int32_t code = visible ? byte : next++;
    std::string& text = characters[static_cast<size_t>(byte)];
    if (code >= 0x80) text += static_cast<char>(0xC0 | code >> 6);
    text += static_cast<char>(code >= 0x80 ? 0x80 | (code & 0x3F) : code);
  }
  return characters;
}

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const std::optional<JsonNode>& json) {
  if (!json) return std::make_unique<Sequence>();
  const std::string& type = json->at("type").text();
  if (type == "Split") return std::make_unique<Split>(*json);
  if (type == "Digits") return std::make_unique<Digits>(*json);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(*json);
  if (type == "Metaspace") return std::make_unique<Metaspace>(*json);
  if (type != "Sequence") json->unsupported("pre-tokenizer '" + type + "'");
  auto sequence = std::make_unique<Sequence>();
  const JsonNode steps = json->at("pretokenizers");
  for (size_t i = 0; i < steps.size(); ++i) sequence->add(make_pre_tokenizer(steps.at(i)));
  return sequence;
}

}  // namespace nibblecast
