#include "calibration/pattern.h"

#include <oniguruma.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/error.h"
#include "calibration/json_node.h"
#include "calibration/utf8.h"

namespace nibblecast {
namespace {

// Bounds of one search. Sensible patterns backtrack a few times per character of the longest run they
// match; each entry of the match stack takes some 40 bytes.
constexpr unsigned long kRetriesPerSearch = 10'000'000;
constexpr unsigned long kRetriesPerByte = 64;
constexpr unsigned int kMatchStackEntries = 1 << 24;
// Bound of all searches in one text, against patterns that look far ahead at each step: hundreds of
// times the time that known tokenizers take.
constexpr std::chrono::seconds kBaseTime{60};
constexpr std::chrono::microseconds kTimePerByte{20};

const OnigUChar* onig_bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

void initialize_once() {
  static const int kResult = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  if (kResult != ONIG_NORMAL) throw Error(ErrorKind::kInternal, {}, "Oniguruma does not start");
}

struct RegionFree {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct MatchLimitsFree {
  void operator()(OnigMatchParam* limits) const { onig_free_match_param(limits); }
};
using MatchLimits = std::unique_ptr<OnigMatchParam, MatchLimitsFree>;

MatchLimits make_limits(size_t text_bytes) {
  MatchLimits limits(onig_new_match_param());
  if (!limits) throw Error(ErrorKind::kRefused, {}, "no memory for a regular expression");
  onig_initialize_match_param(limits.get());
  const unsigned long retries = kRetriesPerSearch + kRetriesPerByte * text_bytes;
  onig_set_retry_limit_in_match_of_match_param(limits.get(), retries);
  onig_set_retry_limit_in_search_of_match_param(limits.get(), retries);
  onig_set_match_stack_limit_size_of_match_param(limits.get(), kMatchStackEntries);
  return limits;
}

}  // namespace

struct Pattern::Compiled {
  explicit Compiled(std::string where) : origin(std::move(where)) {}
  ~Compiled() {
    if (regex != nullptr) onig_free(regex);
  }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;

  OnigRegex regex = nullptr;
  std::string origin;
  std::string expression;
};

namespace {

// Walks one text from match to match.
class Searcher {
 public:
  Searcher(OnigRegex regex, const std::string& origin, std::string_view text)
      : regex_(regex),
        origin_(origin),
        text_(text),
        region_(onig_region_new()),
        limits_(make_limits(text.size())),
        deadline_(Clock::now() + kBaseTime + text.size() * kTimePerByte) {}

  std::optional<TextSpan> next() {
    while (from_ <= text_.size()) {
      if (!search()) return std::nullopt;
      const TextSpan match{static_cast<size_t>(region_->beg[0]), static_cast<size_t>(region_->end[0]), true};
      if (match.begin < match.end || match.end != last_end_) {
        from_ = match.end;
        last_end_ = match.end;
        return match;
      }
      // An empty match right behind the last one: look again one character further.
      from_ += from_ < text_.size() ? character_at(text_, from_).bytes : 1;
    }
    return std::nullopt;
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool search() {
    // The clock is read once in a thousand searches.
    if (++searches_ % 1024 == 0 && Clock::now() > deadline_) fail();
    const OnigUChar* begin = onig_bytes(text_);
    const OnigUChar* end = begin + text_.size();
    const int result = onig_search_with_param(regex_, begin, end, begin + from_, end, region_.get(),
                                              ONIG_OPTION_NONE, limits_.get());
    if (result < 0 && result != ONIG_MISMATCH) fail();
    return result >= 0;
  }

  [[noreturn]] void fail() const {
    throw Error(ErrorKind::kBadInput, {.file = origin_},
                "pattern takes too long or too much memory on a text",
                {.found = "a text of " + std::to_string(text_.size()) + " bytes, stopped at byte " +
                          std::to_string(from_),
                 .hint = "is the tokenizer the model's own?"});
  }

  OnigRegex regex_;
  const std::string& origin_;
  std::string_view text_;
  std::unique_ptr<OnigRegion, RegionFree> region_;
  MatchLimits limits_;
  Clock::time_point deadline_;
  size_t from_ = 0;
  std::optional<size_t> last_end_;
  uint64_t searches_ = 0;
};

}  // namespace

Pattern::Pattern(std::unique_ptr<Compiled> compiled) : compiled_(std::move(compiled)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern Pattern::regex(const std::string& expression, std::string origin) {
  initialize_once();
  auto compiled = std::make_unique<Compiled>(std::move(origin));
  const OnigUChar* begin = onig_bytes(expression);
  const int result = onig_new(&compiled->regex, begin, begin + expression.size(), ONIG_OPTION_NONE,
                              ONIG_ENCODING_UTF8, &OnigSyntaxOniguruma, nullptr);
  if (result != ONIG_NORMAL) {
    compiled->regex = nullptr;
    throw Error(
        ErrorKind::kBadInput, {.file = compiled->origin}, "pattern does not compile",
        {.expected = "a regular expression in Oniguruma's syntax", .found = expression.substr(0, 200)});
  }
  compiled->expression = expression;
  return Pattern(std::move(compiled));
}

const std::string& Pattern::expression() const { return compiled_->expression; }

bool Pattern::matches(std::string_view text) const {
  const std::vector<TextSpan> spans = split(text);
  return spans.size() == 1 && spans.front().is_match;
}

Pattern Pattern::literal(const std::string& text, std::string origin) {
  std::string expression;
  for (const char c : text) {
    if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) expression += '\\';
    expression += c;
  }
  return regex(expression, std::move(origin));
}

std::vector<TextSpan> Pattern::split(std::string_view text) const {
  std::vector<TextSpan> spans;
  Searcher searcher(compiled_->regex, compiled_->origin, text);
  size_t covered = 0;
  while (const auto match = searcher.next()) {
    if (covered != match->begin) spans.push_back({covered, match->begin, false});
    spans.push_back(*match);
    covered = match->end;
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

Pattern read_pattern(const JsonNode& json) {
  const std::string origin = json.file() + ": " + json.path();
  if (const auto regex = json.find("Regex")) return Pattern::regex(regex->text(), origin);
  if (const auto text = json.find("String")) return Pattern::literal(text->text(), origin);
  json.fail("neither 'Regex' nor 'String'");
}

}  // namespace nibblecast
