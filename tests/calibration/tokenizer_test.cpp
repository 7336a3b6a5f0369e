// What a tokenizer.json must not hold, and texts that try to take forever.
#include "calibration/tokenizer.h"

#include <functional>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "calibration/normalizer.h"
#include "calibration/pattern.h"
#include "calibration/token_texts.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_plainly;
using Ids = std::vector<int32_t>;

// A complete tokenizer of five tokens, for tests to break.
Json small() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "b+"}, "behavior": "Isolated", "invert": false},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
    "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "aa": 2, "aaaa": 3},
              "merges": ["a a", ["aa", "aa"]]}})");
}

Tokenizer load_text(const std::string& text) {
  const TemporaryFolder folder;
  write_plainly(folder.path() / "tokenizer.json", text);
  return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
}

Tokenizer load(const Json& json) { return load_text(json.dump()); }

// Breaks one thing; the error must name the file and `parts`.
template <class... Parts>
void refuse(ErrorKind kind, const std::function<void(Json&)>& edit, const Parts&... parts) {
  Json json = small();
  edit(json);
  expect_error(
      kind, [&] { load(json); }, "tokenizer.json", parts...);
}

TEST(Tokenizer, EncodesWithTheSmallOne) {
  const Tokenizer tokenizer = load(small());
  EXPECT_EQ(tokenizer.encode("aaaaabaa"), (Ids{4, 3, 0, 1, 2}));
  EXPECT_EQ(tokenizer.encode("aaaaabaa", false), (Ids{3, 0, 1, 2}));
  EXPECT_EQ(tokenizer.encode("a<s>bb"), (Ids{4, 0, 4, 1, 1}));
  EXPECT_EQ(tokenizer.encode("aaaaabaa", true, 3), (Ids{4, 3, 0}));
  EXPECT_EQ(tokenizer.encode(""), (Ids{4}));
  EXPECT_EQ(tokenizer.token_id("<s>"), 4);
  EXPECT_EQ(tokenizer.token_id("aa"), 2);
  EXPECT_EQ(tokenizer.token_id("c"), std::nullopt);
  EXPECT_EQ(tokenizer.vocab_size(), 5u);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = load(small());
  for (const char* text :
       {"aa\xff", "aa\xc3", "aa\xed\xa0\x80", "aa\xc0\x80", "aa\xf4\x90\x80\x80", "aa\x80"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { tokenizer.encode(text); }, "at byte 2", "not UTF-8");
  }
}

TEST(Tokenizer, RefusesAFileCutShortAnywhere) {
  const std::string text = small().dump();
  for (size_t bytes = 0; bytes < text.size(); bytes += 7) {
    expect_error(
        ErrorKind::kBadInput, [&] { load_text(text.substr(0, bytes)); }, "tokenizer.json");
  }
}

// Every value of the file replaced by each wrong type: an Error or a tokenizer, never anything else.
TEST(Tokenizer, SurvivesWrongTypesEverywhere) {
  const Json wrong[] = {nullptr,
                        true,
                        -1,
                        1e300,
                        18446744073709551615u,
                        "text",
                        Json::array(),
                        Json::object(),
                        Json::array({1, "x", nullptr})};
  const Json flat = small().flatten();
  for (const auto& [pointer, value] : flat.items()) {
    for (Json::json_pointer at(pointer); !at.empty(); at.pop_back()) {
      for (const Json& bad : wrong) {
        Json json = small();
        json[at] = bad;
        try {
          load(json).encode("aab<s>b ");
        } catch (const Error& error) {
          EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
        }
      }
    }
  }
}

TEST(Tokenizer, RefusesWrongVocabularies) {
  const auto bad = ErrorKind::kBadInput;
  refuse(
      bad, [](Json& j) { j["model"]["vocab"]["a"] = -1; }, "model.vocab['a']", "not a token id");
  refuse(
      bad, [](Json& j) { j["model"]["vocab"]["a"] = 1; }, "model.vocab", "id 1 appears twice");
  refuse(
      bad, [](Json& j) { j["model"]["vocab"]["a"] = 4000000000u; }, "model.vocab['a']", "16777215");
  refuse(
      bad, [](Json& j) { j["model"]["vocab"]["a"] = 0.5; }, "model.vocab['a']", "0.5");
  refuse(
      bad, [](Json& j) { j["model"]["vocab"] = Json::object(); }, "model.vocab", "empty");
  refuse(
      bad, [](Json& j) { j["model"].erase("vocab"); }, "model", "'vocab' is missing");
  refuse(
      bad, [](Json& j) { j["model"]["unk_token"] = "?"; }, "model.unk_token", "not in the vocabulary");
}

TEST(Tokenizer, RefusesWrongMerges) {
  const auto merge = [](const Json& value) { return [value](Json& j) { j["model"]["merges"][1] = value; }; };
  const auto bad = ErrorKind::kBadInput;
  refuse(bad, merge("a c"), "model.merges[1]", "'c' is not in the vocabulary");
  refuse(bad, merge("a b"), "model.merges[1]", "'ab' is not in the vocabulary");
  refuse(bad, merge("ab"), "model.merges[1]", "one space");
  refuse(bad, merge("a a a"), "model.merges[1]", "one space");
  refuse(bad, merge(Json{"a", "a", "a"}), "model.merges[1]", "two tokens");
  refuse(bad, merge(Json{"a", 1}), "model.merges[1][1]", "a string");
  refuse(
      bad, [](Json& j) { j["model"]["merges"] = "a a"; }, "model.merges", "an array");
}

TEST(Tokenizer, RefusesWrongAddedTokensAndTemplates) {
  const auto bad = ErrorKind::kBadInput;
  refuse(
      bad, [](Json& j) { j["added_tokens"][0]["id"] = 7; }, "added_tokens[0].id", "expected 4", "found 7");
  refuse(
      bad, [](Json& j) { j["added_tokens"][0]["id"] = -1; }, "added_tokens[0].id", "not a token id");
  refuse(
      bad, [](Json& j) { j["added_tokens"][0].erase("content"); }, "added_tokens[0]", "'content'");
  refuse(
      bad, [](Json& j) { j["added_tokens"][0]["lstrip"] = 1; }, "added_tokens[0].lstrip", "true or false");
  refuse(
      bad, [](Json& j) { j["post_processor"]["special_tokens"] = Json::object(); }, "'<s>'");
  refuse(
      bad, [](Json& j) { j["post_processor"]["single"][1]["Sequence"]["id"] = "B"; }, "second text");
}

TEST(Tokenizer, NamesWhatItDoesNotRead) {
  const auto unsupported = ErrorKind::kUnsupported;
  const auto typed = [](const char* part, const char* type) {
    return [part, type](Json& j) { j[part] = {{"type", type}}; };
  };
  refuse(
      unsupported, [](Json& j) { j["model"]["type"] = "WordPiece"; }, "model 'WordPiece'");
  refuse(
      unsupported, [](Json& j) { j["model"]["type"] = "Unigram"; }, "model 'Unigram'");
  refuse(
      unsupported, [](Json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout");
  refuse(
      unsupported, [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
  refuse(unsupported, typed("pre_tokenizer", "BertPreTokenizer"), "pre-tokenizer 'BertPreTokenizer'");
  refuse(unsupported, typed("normalizer", "Lowercase"), "normalizer 'Lowercase'");
  refuse(unsupported, typed("post_processor", "BertProcessing"), "post-processor 'BertProcessing'");
  refuse(
      unsupported, [](Json& j) { j["version"] = "2.0"; }, "version '2.0'");
  refuse(
      unsupported, [](Json& j) { j["pre_tokenizer"]["behavior"] = "Shuffled"; }, "pre_tokenizer.behavior");
}

TEST(Tokenizer, RefusesAPatternThatDoesNotCompile) {
  for (const char* pattern : {"(a", "[", "a)", "(?<name", "\\p{Nonsense}"}) {
    refuse(
        ErrorKind::kBadInput, [&](Json& j) { j["pre_tokenizer"]["pattern"]["Regex"] = pattern; },
        "pre_tokenizer.pattern", "does not compile", pattern);
  }
  refuse(
      ErrorKind::kBadInput,
      [](Json& j) {
        j["pre_tokenizer"]["pattern"] = {{"Glob", "*"}};
      },
      "pre_tokenizer.pattern", "neither 'Regex' nor 'String'");
}

TEST(Tokenizer, StopsAPatternThatBacktracksWithoutEnd) {
  Json json = small();
  json["pre_tokenizer"]["pattern"]["Regex"] = "(a|aa)+[^ab]";
  const Tokenizer tokenizer = load(json);
  expect_error(
      ErrorKind::kBadInput, [&] { tokenizer.encode(std::string(5000, 'a') + "b"); }, "pre_tokenizer.pattern",
      "too long");
}

// A megabyte without a place to split: seconds if merging were quadratic by a small factor, hours otherwise.
TEST(Tokenizer, MergesOneLongPiece) {
  const Ids ids = load(small()).encode(std::string(1'000'003, 'a'), false);
  ASSERT_EQ(ids.size(), 250'002u);
  EXPECT_EQ(ids[249'999], 3);
  EXPECT_EQ(ids[250'000], 2);
  EXPECT_EQ(ids[250'001], 0);
}

TEST(Normalize, OrdersALongRunOfMarksQuickly) {
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::string ordered = normalize(marks, NormalForm::kNfd);
  ASSERT_EQ(ordered.size(), marks.size());
  EXPECT_EQ(ordered.substr(0, 5), "a\u0323\u0323");
  EXPECT_EQ(ordered.substr(ordered.size() - 4), "\u0301\u0301");
}

TEST(Normalize, ComposesAndDecomposes) {
  EXPECT_EQ(normalize("e\u0301 \u1100\u1161\u11a8 \ufb01", NormalForm::kNfc), "\u00e9 \uac01 \ufb01");
  EXPECT_EQ(normalize("\u00e9 \uac01 \ufb01", NormalForm::kNfd), "e\u0301 \u1100\u1161\u11a8 \ufb01");
  EXPECT_EQ(normalize("\u2126 \ufb01 \u00bd", NormalForm::kNfkc), "\u03a9 fi 1\u20442");
  EXPECT_EQ(normalize("\u1e9b\u0323", NormalForm::kNfkd), "s\u0323\u0307");
}

TEST(Pattern, CoversTheText) {
  const auto spans = [](const Pattern& pattern, const std::string& text) {
    std::string found;
    for (const TextSpan& span : pattern.split(text)) {
      found += (span.is_match ? "<" : "(") + text.substr(span.begin, span.end - span.begin) +
               (span.is_match ? ">" : ")");
    }
    return found;
  };
  EXPECT_EQ(spans(Pattern::regex("b+", "here"), "abbcb"), "(a)<bb>(c)<b>");
  EXPECT_EQ(spans(Pattern::literal("a.b|c", "here"), "a.b|caxb"), "<a.b|c>(axb)");
  EXPECT_EQ(spans(Pattern::regex("x*", "here"), "axxb"), "<>(a)<xx>(b)<>");
  EXPECT_EQ(spans(Pattern::regex("", "here"), "é1"), "<>(é)<>(1)<>");
}

// What the goldens' texts become and came from.
TEST(TokenTexts, SayWhatWasEncoded) {
  const std::filesystem::path goldens =
      std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/calibration/golden";
  for (const char* name : {"gpt2.json", "qwen.json", "llama2.json", "llama3.json"}) {
    const Json golden = Json::parse(read_text(system_files(), goldens / name, 1 << 24));
    const TemporaryFolder folder;
    write_plainly(folder.path() / "tokenizer.json", golden["tokenizer"].dump());
    const Tokenizer tokenizer = Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
    const auto texts = TokenTexts::load(system_files(), folder.path() / "tokenizer.json");
    ASSERT_TRUE(texts) << name;
    for (const std::string text : {"the cat, and 12 caf\u00e9s!", "\u4f60\u597d\n\U0001F600"}) {
      const Ids ids = tokenizer.encode(text, false);
      const std::string said = texts->text(ids);
      EXPECT_TRUE(said == text || said == " " + text) << name << ": " << said;
    }
  }
}

TEST(TokenTexts, OfHalfCharactersAndStrangeIdsAreReplaced) {
  const TokenTexts texts(Json::parse(R"({"model": {"vocab": {"<0xC3>": 0, "<0xA9>": 1, "\u2581a": 2}},
                                         "added_tokens": [{"id": 3, "content": "<s>"}, {"id": "x"}, 7]})"));
  EXPECT_EQ(texts.text(Ids{3, 2, 0, 1}), "<s> a\u00e9");
  EXPECT_EQ(texts.text(Ids{1, 0}), "\ufffd\ufffd");
  EXPECT_EQ(texts.text(Ids{99, -1}), "\ufffd\ufffd");
  const TemporaryFolder folder;
  EXPECT_FALSE(TokenTexts::load(system_files(), folder.path() / "tokenizer.json"));
  write_plainly(folder.path() / "tokenizer.json", "{\"model\": 3}");
  EXPECT_FALSE(TokenTexts::load(system_files(), folder.path() / "tokenizer.json"));
}

}  // namespace
}  // namespace nibblecast
