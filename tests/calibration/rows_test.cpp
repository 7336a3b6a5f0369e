#include "calibration/rows.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <sstream>
#include <vector>

#include "base/file.h"
#include "calibration/calibration_set.h"
#include "checkpoint/safetensors.h"
#include "plain_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryFolder;
using testing::write_plainly;
using Ids = std::vector<int32_t>;

// Characters a to f are ids 0 to 5, '\n' is 6, "<s>" 7; `template_text` is the post-processor.
Tokenizer letters(const TemporaryFolder& folder, const std::string& template_text = "null") {
  const std::string json = R"({"model": {"vocab": {"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"\n":6}, "merges": []},
    "added_tokens": [{"id": 7, "content": "<s>", "normalized": false}], "post_processor": )" +
                           template_text + "}";
  write_plainly(folder.path() / "tokenizer.json", json);
  return Tokenizer::load(system_files(), folder.path() / "tokenizer.json");
}

// "<s> $A a": a BOS in front and an `a` behind.
constexpr const char* kTemplate =
    R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}},
  {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "a"}}],
  "special_tokens": {"<s>": {"ids": [7]}, "a": {"ids": [0]}}})";

// One file with its count.
struct Request {
  RowsPolicy policy = RowsPolicy::kDocs;
  BosPolicy bos = BosPolicy::kAuto;
  uint64_t count = 4;
  uint64_t length = 5;
};

CalibrationRows read_file(const std::string& path, const Tokenizer* tokenizer, int64_t bos,
                          uint64_t vocab_size, const Request& request) {
  const auto sets = find_calibration_sets(system_files(), path, request.count, "no cache");
  return read_rows(system_files(), sets, [&] { return tokenizer; }, bos, vocab_size,
                   {.policy = request.policy, .bos = request.bos, .length = request.length});
}

constexpr Request kFour{.policy = RowsPolicy::kDocs, .bos = BosPolicy::kNever, .count = 4, .length = 5};

class Rows : public ::testing::Test {
 protected:
  CalibrationRows read(const std::string& content, const Request& options = kFour, int64_t bos = 7) {
    path_ = (folder_.path() / "calib.jsonl").string();
    write_plainly(path_, content);
    return read_file(path_, &tokenizer_, bos, 8, options);
  }
  template <class... Parts>
  void refuse(const std::string& content, const Parts&... parts) {
    expect_error(
        ErrorKind::kBadInput, [&] { read(content); }, "calib.jsonl", parts...);
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_ = letters(folder_);
  std::string path_;
};

TEST_F(Rows, ReadsEveryKey) {
  Request options = kFour;
  options.count = 6;
  options.length = 10;
  const auto rows = read(R"({"text": "ab", "prompt": "f"}
{"prompt": "c", "text": null}

{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}, {"content": "b"}]}
{"messages": [{"content": [{"type": "text", "text": "c"}, {"text": "d"}]}]}
{"article": "e", "input_ids": [1]}
{"input_ids": [7, 7]}
)",
                         options);
  EXPECT_THAT(rows.ids, ElementsAre(Ids{0, 1}, Ids{2}, Ids{0, 6, 1}, Ids{2, 3}, Ids{4}, Ids{7, 7}));
  EXPECT_THAT(rows.warnings, IsEmpty());
}

TEST_F(Rows, RefusesWithLineAndOffset) {
  refuse("{\"text\": \"a\"}\n{\"text\": \"b\"\n", "line 2", "not valid JSON");
  refuse("{\"text\": \"a\"}\n[1]\n", "line 2", "at byte 14", "not a JSON object");
  refuse("{\"body\": \"a\"}\n", "line 1", "none of the keys");
  refuse("{\"text\": 1}\n", "line 1", "'text' is not a string");
  refuse("{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", "line 2", "at byte 24", "not UTF-8");
  refuse(std::string("{\"text\": \"a\"}\n\0\n", 16), "line 2", "at byte 14", "NUL");
  refuse("{\"messages\": \"a\"}", "'messages' is not a list");
  refuse("{\"messages\": [{\"role\": \"user\"}]}", "'content'");
  refuse("{\"messages\": [{\"content\": 1}]}", "'content'");
  refuse("{\"messages\": [{\"content\": [{\"type\": \"image\"}]}]}", "no 'text'");
  refuse("{\"input_ids\": [1, 8]}", "input_ids[1]", "below 8", "found 8");
  refuse("{\"input_ids\": [-1]}", "input_ids[0]");
  refuse("{\"input_ids\": [1.5]}", "input_ids[0]");
  refuse("{\"input_ids\": [99999999999999999999999]}", "input_ids[0]");
  refuse("{\"input_ids\": \"1\"}", "'input_ids' is not a list");
  refuse("{\"text\": \"\"}\n", "no rows can be made of it");
  refuse("", "no rows can be made of it");
  refuse("plain\xc3", "at byte 5", "not UTF-8");
  refuse(std::string("ab\0c", 4), "at byte 2", "NUL");
}

TEST_F(Rows, DocsCountsTextsAndTruncates) {
  const auto rows = read(
      "{\"text\": \"abcdef\"}\n{\"text\": \"\"}\n{\"input_ids\": [1,2,3,4,5,6]}\n{\"text\": \"a\"}\n"
      "{\"text\": \"beyond the fourth: \xff\"}\n");
  EXPECT_THAT(rows.ids, ElementsAre(Ids{0, 1, 2, 3, 4}, Ids{1, 2, 3, 4, 5}, Ids{0}));
  EXPECT_EQ(rows.tokens(), 11u);
  EXPECT_EQ(rows.longest(), 5u);
  EXPECT_THAT(rows.warnings, ElementsAre(HasSubstr("1 of 4 texts is empty"), HasSubstr("asked for 4 rows")));
}

TEST_F(Rows, PackedCutsAndDropsTheRest) {
  Request options = kFour;
  options.policy = RowsPolicy::kPacked;
  const std::string content = "{\"text\": \"abc\"}\n{\"text\": \"def\"}\n{\"input_ids\": [1,1,1,1,1,1]}\n";
  auto rows = read(content, options);
  EXPECT_THAT(rows.ids, ElementsAre(Ids{0, 1, 2, 3, 4}, Ids{5, 1, 1, 1, 1}));
  EXPECT_THAT(rows.warnings, ElementsAre(AllOf(HasSubstr("asked for 4 rows"), HasSubstr("gives 2"))));
  options.bos = BosPolicy::kAuto;
  EXPECT_THAT(read(content, options).ids, ElementsAre(Ids{7, 0, 1, 2, 7}, Ids{3, 4, 5, 1, 1}));
  options.count = 1;
  rows = read(content, options);
  EXPECT_THAT(rows.ids, ElementsAre(Ids{7, 0, 1, 2, 7}));
  EXPECT_THAT(rows.warnings, IsEmpty());
  options.length = 14;
  EXPECT_EQ(read(content, options).ids.size(), 1u);
  options.length = 15;
  expect_error(
      ErrorKind::kBadInput, [&] { read(content, options); }, "at least 15 tokens", "found 14");
}

TEST_F(Rows, BosByPolicy) {
  const auto ids = [&](BosPolicy bos, const std::string& text, int64_t id = 7) {
    Request options = kFour;
    options.bos = bos;
    return read(text, options, id).ids.at(0);
  };
  // The file adds none: `auto` puts it once.
  EXPECT_EQ(ids(BosPolicy::kAuto, "ab"), (Ids{7, 0, 1}));
  EXPECT_EQ(ids(BosPolicy::kAuto, "<s>ab"), (Ids{7, 0, 1}));
  EXPECT_EQ(ids(BosPolicy::kAuto, "abcdef"), (Ids{7, 0, 1, 2, 3}));
  EXPECT_EQ(ids(BosPolicy::kAuto, "ab", -1), (Ids{0, 1}));
  EXPECT_EQ(ids(BosPolicy::kNever, "ab"), (Ids{0, 1}));
  EXPECT_EQ(ids(BosPolicy::kAlways, "ab"), (Ids{7, 0, 1}));
  expect_error(
      ErrorKind::kBadInput, [&] { ids(BosPolicy::kAlways, "ab", -1); }, "no BOS");
  expect_error(
      ErrorKind::kBadInput, [&] { ids(BosPolicy::kAuto, "ab", 8); }, "no BOS", "found 8");
  // The file adds one, and something behind, which truncation keeps.
  tokenizer_ = letters(folder_, kTemplate);
  EXPECT_EQ(ids(BosPolicy::kAuto, "bc"), (Ids{7, 1, 2, 0}));
  EXPECT_EQ(ids(BosPolicy::kAuto, "bcdef"), (Ids{7, 1, 2, 3, 0}));
  EXPECT_EQ(ids(BosPolicy::kAlways, "bc"), (Ids{7, 1, 2, 0}));
  EXPECT_EQ(ids(BosPolicy::kNever, "bc"), (Ids{1, 2}));
}

TEST_F(Rows, PackedCutsWhatStandsBehindATextToo) {
  tokenizer_ = letters(folder_, kTemplate);
  const Request options{.policy = RowsPolicy::kPacked, .bos = BosPolicy::kAuto, .count = 1, .length = 3};
  EXPECT_THAT(read("bcdef", options).ids, ElementsAre(Ids{7, 1, 2}));
}

TEST_F(Rows, LinesOfOneTextAreJoined) {
  const std::string first = (folder_.path() / "1.jsonl").string(),
                    second = (folder_.path() / "2.jsonl").string();
  write_plainly(first, "{\"text\": \"ab\"}\n{\"text\": \"\"}\n");
  write_plainly(second, "{\"text\": \"cd\"}\n");
  const std::vector<CalibrationSet> sets = {
      {.name = "lines", .files = {first, second}, .column = "text", .count = kWholeSet, .joint = "\n\n"}};
  RowsOptions options{.policy = RowsPolicy::kPacked, .length = 4};
  const auto rows = read_rows(
      system_files(), sets, [&] { return &tokenizer_; }, 7, 8, options);
  EXPECT_THAT(rows.ids, ElementsAre(Ids{7, 0, 1, 6}, Ids{6, 6, 6, 2})) << "one BOS; the rest is no row";
  EXPECT_THAT(rows.warnings, IsEmpty());
  options.policy = RowsPolicy::kDocs;
  expect_error(
      ErrorKind::kUsage,
      [&] {
        read_rows(
            system_files(), sets, [&] { return &tokenizer_; }, 7, 8, options);
      },
      "lines is one text", "--calib-rows packed");
}

TEST_F(Rows, PlainTextIsOneText) {
  EXPECT_THAT(read("ab\nc\n").ids, ElementsAre(Ids{0, 1, 6, 2, 6}));
  EXPECT_THAT(read("\xEF\xBB\xBF"
                   "ab")
                  .ids,
              ElementsAre(Ids{0, 1}));
  EXPECT_THAT(read("\xEF\xBB\xBF \n{\"text\": \"c\"}\r\n").ids, ElementsAre(Ids{2}));
}

TEST_F(Rows, SaysWhatIsLeftOfAPlainText) {
  Request options = kFour;
  EXPECT_THAT(read("abcabcabc", options).warnings,
              ElementsAre(AllOf(HasSubstr("used 5 of 9 tokens of "),
                                HasSubstr("--calib-rows packed uses them all"))));
  std::string large;
  while (large.size() < 300'000) large += "abcdef";
  EXPECT_THAT(read(large, options).warnings, ElementsAre(HasSubstr("used 5 of about 300000 tokens of ")));
  EXPECT_THAT(read("abc", options).warnings,
              ElementsAre(AllOf(HasSubstr("asked for 4 rows"), HasSubstr("ask for 1 with --calib-size"))));
  options.count = 1;
  EXPECT_THAT(read("abcab", options).warnings, IsEmpty());
  options.policy = RowsPolicy::kPacked;
  EXPECT_THAT(read("abcabcabc", options).warnings, IsEmpty());
}

TEST(CalibrationRows, TooFewTokens) {
  CalibrationRows rows{.ids = {Ids(1024)}, .warnings = {}};
  check_tokens(rows, "F");
  EXPECT_THAT(rows.warnings, IsEmpty());
  rows.ids = {Ids(1000), Ids(23)};
  check_tokens(rows, "F");
  EXPECT_THAT(rows.warnings, ElementsAre(HasSubstr("1023 tokens are few")));
  rows.ids = {Ids(8), Ids(7)};
  expect_error(
      ErrorKind::kBadInput, [&] { check_tokens(rows, "F"); }, "F: too little to calibrate on", "at least 16",
      "found 15");
}

TEST_F(Rows, ReadsStandardInput) {
  std::istringstream input("{\"text\": \"ab\"}\n");
  std::streambuf* const before = std::cin.rdbuf(input.rdbuf());
  const auto rows = read_file("-", &tokenizer_, 7, 8, kFour);
  std::cin.rdbuf(before);
  std::cin.clear();
  EXPECT_THAT(rows.ids, ElementsAre(Ids{0, 1}));
  EXPECT_THAT(rows.warnings, ElementsAre(HasSubstr("standard input")));
}

TEST_F(Rows, NeedsATokenizerOnlyForText) {
  path_ = (folder_.path() / "ids.jsonl").string();
  write_plainly(path_, "{\"input_ids\": [1]}\n{\"text\": \"a\"}\n");
  Request options = kFour;
  options.count = 1;
  EXPECT_THAT(read_file(path_, nullptr, 7, 8, options).ids, ElementsAre(Ids{1}));
  expect_error(
      ErrorKind::kBadInput, [&] { read_file(path_, nullptr, 7, 8, kFour); }, "line 2", "no tokenizer");
}

TEST_F(Rows, LoadsTheTokenizerForTheFirstText) {
  path_ = (folder_.path() / "mixed.jsonl").string();
  write_plainly(path_, "{\"input_ids\": [1]}\n{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
  int loads = 0;
  const auto tokenizer = [&] {
    ++loads;
    return &tokenizer_;
  };
  const auto read_first = [&](uint64_t count) {
    const auto sets = find_calibration_sets(system_files(), path_, count, "no cache");
    return read_rows(system_files(), sets, tokenizer, 7, 8, {}).ids;
  };
  EXPECT_THAT(read_first(1), ElementsAre(Ids{1}));
  EXPECT_EQ(loads, 0);
  EXPECT_THAT(read_first(3), ElementsAre(Ids{1}, Ids{7, 0}, Ids{7, 1}));
  EXPECT_EQ(loads, 1);
}

TEST_F(Rows, RefusesATokenizerLargerThanTheModel) {
  path_ = (folder_.path() / "t").string();
  write_plainly(path_, "abf");
  expect_error(
      ErrorKind::kBadInput, [&] { read_file(path_, &tokenizer_, 2, 5, kFour); }, "id 5", "vocab_size 5");
}

// A line that spans many reads, and line ends at their borders.
TEST_F(Rows, ReadsLongLines) {
  Request options = kFour;
  options.length = 10'000'000;
  const std::string line = "{\"text\": \"" + std::string(3'000'000, 'a') + "\"}";
  const auto rows = read(line + "\n{\"text\": \"b\"}\r\n" + line, options);
  ASSERT_EQ(rows.ids.size(), 3u);
  EXPECT_EQ(rows.ids[0].size(), 3'000'000u);
  EXPECT_EQ(rows.ids[1], (Ids{1}));
  EXPECT_EQ(rows.ids[2].size(), 3'000'000u);
}

TEST(RowsOracle, PackedRowsAreTheOracles) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  const Tokenizer tokenizer = Tokenizer::load(system_files(), model / "tokenizer.json");
  const auto file = system_files().open(model / "oracle.safetensors", Access::kRead);
  const SafetensorsHeader header = read_safetensors_header(*file);
  for (const auto& [name, count] : {std::pair("calib", 48), std::pair("eval", 24)}) {
    const Request options{
        .policy = RowsPolicy::kPacked, .count = static_cast<uint64_t>(count), .length = 512};
    const auto rows =
        read_file((model / (std::string(name) + ".jsonl")).string(), &tokenizer, 0, 6144, options);
    EXPECT_THAT(rows.warnings, IsEmpty());
    const std::string ids = std::string(name) + ".input_ids";
    const auto tensor = std::find_if(header.tensors.begin(), header.tensors.end(),
                                     [&](const Tensor& t) { return t.name == ids; });
    ASSERT_NE(tensor, header.tensors.end());
    ASSERT_EQ(tensor->shape, (Shape{static_cast<uint64_t>(count), 512}));
    ASSERT_EQ(tensor->dtype == Dtype::kI64 || tensor->dtype == Dtype::kI32, true);
    std::vector<std::byte> bytes(tensor->size_bytes);
    file->read(tensor->offset, bytes);
    Ids expected;
    const size_t width = dtype_bytes(tensor->dtype);  // little-endian: the low half comes first
    for (size_t i = 0; i < bytes.size(); i += width) std::memcpy(&expected.emplace_back(), &bytes[i], 4);
    Ids found;
    for (const Ids& row : rows.ids) found.insert(found.end(), row.begin(), row.end());
    EXPECT_EQ(found, expected) << name;
  }
}

}  // namespace
}  // namespace nibblecast
