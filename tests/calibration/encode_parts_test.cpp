// A text that is encoded in parts: ids of the whole, whatever it holds.
#include <gmock/gmock.h>

#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "calibration/pattern_cuts.h"
#include "calibration/tokenizer.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;
using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;

const std::filesystem::path kGolden =
    std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/calibration/golden";

std::string operator*(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

// Characters one by one, counting how many bytes were asked for.
struct Source {
  const std::string& text;
  size_t step = 1;
  size_t given = 0;

  bool operator()(std::string& to) {
    if (given == text.size()) return false;
    size_t end = std::min(given + step, text.size());
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) ++end;
    to.append(text, given, end - given);
    given = end;
    return true;
  }
};

Ids encode_in_parts(const Tokenizer& tokenizer, const std::string& text, EncodeOptions options) {
  return tokenizer.encode(Source{text}, options);
}

Texts alphabet() {
  return {"a",
          "b",
          "the",
          "s",
          " ",
          "  ",
          "\n",
          "\r\n",
          "\t",
          "1",
          "23",
          "'",
          "'s",
          "'re",
          "don",
          "!",
          "!!",
          "-",
          "_",
          "\u00e9",
          "e\u0301",
          "\u0301",
          "\u0327\u0301",
          "\u91cf",
          "\u6a21\u578b",
          "\u30ab\u30bf",
          "\ud55c\uad6d",
          "\u1100",
          "\u1161\u11a8",
          "\u0663",
          "\u00bd",
          "\U0001f44d",
          "\u200d",
          "\u00a0",
          "\u3000",
          "\u2028",
          "\x01",
          "\x7f",
          "<s>",
          "</s>",
          "<",
          "s>",
          "[A]",
          "[AB",
          "C]",
          "[L]",
          "[R]",
          "[LR]",
          "[S]",
          "tok",
          "to",
          "k",
          "[N\u00e9]",
          "\u00df",
          "ss",
          "\ufb01",
          "\u017f",
          "A",
          "B",
          "Z",
          "/",
          ".",
          ","};
}

class EncodeParts : public ::testing::TestWithParam<std::string> {
 protected:
  Tokenizer load() const {
    const std::string file = (kGolden / (GetParam() + ".json")).string();
    const TemporaryFolder folder;
    write_plainly(folder.path() / "tokenizer.json",
                  parse_json(read_text(system_files(), file, 1 << 20), file)["tokenizer"].dump());
    return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
  }
};

TEST_P(EncodeParts, GivesTheIdsOfTheWhole) {
  const Tokenizer tokenizer = load();
  const Texts pieces = alphabet();
  std::mt19937_64 random(GetParam().size());
  for (int round = 0; round < 60; ++round) {
    // Few pieces make long runs.
    const size_t choice = round % 3 == 0 ? 3 : pieces.size();
    const size_t first = random() % pieces.size();
    std::string text;
    while (text.size() < 800) text += pieces[(first + random() % choice) % pieces.size()];
    const size_t window = 8 + random() % 100;
    ASSERT_EQ(encode_in_parts(tokenizer, text, {.window_bytes = window}), tokenizer.encode(text)) << text;
    const size_t most = random() % 100;
    ASSERT_EQ(encode_in_parts(tokenizer, text, {.max_ids = most, .window_bytes = window}),
              tokenizer.encode(text, true, most))
        << text;
  }
}

TEST_P(EncodeParts, GivesTheIdsOfTheWholeOfHardTexts) {
  const Tokenizer tokenizer = load();
  const Texts hard = {std::string(" ") * 5000 + "x",
                      std::string("word") * 5000,
                      std::string("\u91cf\u5316\u662f\u628a") * 2000,
                      "e" + std::string("\u0301\u0323") * 3000 + " x",
                      std::string("a <s>") * 2000,
                      std::string("1234567") * 2000,
                      std::string("\n") * 5000,
                      std::string("a\n") * 5000,
                      std::string("\ud55c\uad6d\uc5b4 ") * 2000};
  for (const std::string& text : hard) {
    EXPECT_EQ(encode_in_parts(tokenizer, text, {.window_bytes = 512}), tokenizer.encode(text))
        << text.substr(0, 20);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EncodeParts,
                         ::testing::Values("added", "deepseek", "digits_individual", "digits_runs", "dropped",
                                           "fallback", "gpt2", "llama3", "o200k", "qwen", "splits",
                                           "unknown_fused", "unknown_single"),
                         [](const auto& test) { return test.param; });

class EncodePartsOfDeepseek : public ::testing::Test {
 protected:
  static Tokenizer load() {
    const std::string file = (kGolden / "deepseek.json").string();
    const TemporaryFolder folder;
    write_plainly(folder.path() / "tokenizer.json",
                  parse_json(read_text(system_files(), file, 1 << 20), file)["tokenizer"].dump());
    return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
  }
  const Tokenizer tokenizer_ = load();
};

TEST_F(EncodePartsOfDeepseek, AsksForNoMoreThanARowNeeds) {
  for (const char* piece : {"words and more ", "\u91cf\u5316 ", "x=1;\n", "caf\u00e9,na\u00efve;"}) {
    const std::string text = std::string(piece) * 100'000;
    Source source{.text = text, .step = 4096};
    const Ids ids = tokenizer_.encode(std::ref(source), {.max_ids = 512});
    EXPECT_EQ(ids.size(), 512u);
    EXPECT_LT(source.given, 200'000u);
  }
}

TEST_F(EncodePartsOfDeepseek, HoldsALongWordUpToABound) {
  const std::string word = std::string("internationalization") * 500'000;
  EXPECT_EQ(encode_in_parts(tokenizer_, word, {}), tokenizer_.encode(word));
  expect_error(
      ErrorKind::kRefused,
      [&] { encode_in_parts(tokenizer_, word, {.max_held_bytes = 1 << 20, .origin = "calib.txt"}); },
      "calib.txt", "a word", "less than 1048576 bytes", "--memory");
}

// Patterns out of atoms, groups, quantifiers and lookaheads, as chance has it.
class RandomTokenizers {
 public:
  std::string pattern(int depth = 0) {
    std::string text = part(depth);
    for (uint64_t more = random_() % 3; more > 0; --more)
      text += (random_() % 3 == 0 ? "|" : "") + part(depth);
    return text;
  }

  // Pairs of letters are tokens, so that ids tell where pieces begin. nullopt: a pattern does not compile.
  std::optional<Tokenizer> tokenizer() {
    Json json = {{"model", {{"vocab", Json::object()}, {"merges", Json::array()}}},
                 {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array()}}}};
    Json& vocabulary = json["model"]["vocab"];
    for (const char a : kLetters) vocabulary[std::string(1, a)] = vocabulary.size();
    for (const char a : kLetters) {
      for (const char b : kLetters) {
        vocabulary[std::string{a, b}] = vocabulary.size();
        json["model"]["merges"].push_back({std::string(1, a), std::string(1, b)});
      }
    }
    for (uint64_t steps = 1 + random_() % 2; steps > 0; --steps) {
      json["pre_tokenizer"]["pretokenizers"].push_back({{"type", "Split"},
                                                        {"pattern", {{"Regex", pattern()}}},
                                                        {"behavior", kBehaviors[random_() % 5]},
                                                        {"invert", random_() % 8 == 0}});
    }
    const TemporaryFolder folder;
    write_plainly(folder.path() / "tokenizer.json", json.dump());
    try {
      return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  std::string text() {
    std::string letters;
    const uint64_t most = 1 + random_() % kLetters.size();
    while (letters.size() < 60) letters += kLetters[random_() % most];
    return letters;
  }

 private:
  std::string part(int depth) {
    static constexpr const char* kAtoms[] = {"a",   "b",   "c", " ",      "[ab]", "[^a]",
                                             "\\s", "\\S", ".", "(?i:A)", "[b-d]"};
    static constexpr const char* kQuantifiers[] = {"",  "",      "?",   "{1,2}", "+",
                                                   "*", "{1,2}", "{2}", "+?",    "?+"};
    const uint64_t kind = random_() % 10;
    if (kind == 0) return std::string("(?!") + kAtoms[random_() % std::size(kAtoms)] + ")";
    if (kind == 1) return std::string("(?=") + kAtoms[random_() % std::size(kAtoms)] + ")";
    // Groups hardly repeat: patterns that backtrack without end are another matter.
    if (kind < 4 && depth < 2) return "(?:" + pattern(depth + 1) + ")" + kQuantifiers[random_() % 4];
    return std::string(kAtoms[random_() % std::size(kAtoms)]) +
           kQuantifiers[random_() % std::size(kQuantifiers)];
  }

  static constexpr std::string_view kLetters = "abcd ";
  static constexpr const char* kBehaviors[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                               "Contiguous"};
  std::mt19937_64 random_{1};
};

TEST(EncodePartsOfAnyPattern, GivesTheIdsOfTheWhole) {
  RandomTokenizers random;
  size_t cut = 0;
  for (int round = 0; round < 1000; ++round) {
    const auto tokenizer = random.tokenizer();
    if (!tokenizer) continue;
    for (int texts = 0; texts < 4; ++texts) {
      const std::string text = random.text();
      const Ids whole = tokenizer->encode(text);
      ASSERT_EQ(encode_in_parts(*tokenizer, text, {.window_bytes = 8}), whole) << text;
      // Refused where nothing could be cut.
      try {
        encode_in_parts(*tokenizer, text, {.max_held_bytes = 24, .window_bytes = 8});
        ++cut;
      } catch (const Error&) {
      }
    }
  }
  EXPECT_GT(cut, 100u);
}

TEST(PatternCuts, TellsWhereNoMatchCanNotice) {
  const auto allows = [](const char* pattern, const char* before, const char* behind) {
    const auto cuts = PatternCuts::of(pattern);
    return cuts.value().allow(cuts->atoms_of(before), cuts->atoms_of(behind));
  };
  EXPECT_TRUE(allows("a+b?", "b", "a"));
  EXPECT_FALSE(allows("a+b?", "a", "b"));
  EXPECT_FALSE(allows("a+b?", "a", "a"));
  EXPECT_FALSE(allows("(?:ab)+", "b", "a"));
  EXPECT_TRUE(allows("(?:ab)|c", "b", "a"));
  EXPECT_FALSE(allows("ab?c", "a", "c"));
  EXPECT_TRUE(allows("ab{1,3}c", "a", "c"));
  EXPECT_FALSE(allows("ab{0,3}c", "a", "c"));
  EXPECT_FALSE(allows("ab{,3}c", "a", "c"));
  EXPECT_FALSE(allows("\\s+(?!\\S)|\\s+", " ", "x"));
  EXPECT_TRUE(allows("\\s+(?!\\S)|\\s+", "x", " "));
  EXPECT_FALSE(allows("a(?:(?=b)c|d)", "a", "x"));
  EXPECT_FALSE(allows("(?i:'s)", "'", "S"));
  EXPECT_FALSE(allows("(?i:'ss)", "'", "\u00df"));
  EXPECT_TRUE(allows("(?i:'s)", "'", "t"));
  EXPECT_FALSE(allows("[a-z\u4e00-\u9fa5]+", "\u91cf", "q"));
  EXPECT_FALSE(allows(" ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "!", "\n"));
  EXPECT_TRUE(allows("\\p{N}{1,3}", "x", "1"));
  for (const char* not_understood :
       {"^a", "a$", "\\ba", "(?<=a)b", "(?<name>a)", "(a)\\1", "a*", "", "a(?!bc)", "(?i)a", "a\\x41", "[]a]",
        "(?i:\\p{L})", "\\X", "a|", "(?#x)a", "a(?!b*)"}) {
    EXPECT_FALSE(PatternCuts::of(not_understood).has_value()) << not_understood;
  }
}

}  // namespace
}  // namespace nibblecast
