// What a calibration file may look like, and what is refused by name.
#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "calibration/held_text.h"
#include "calibration/record_stream.h"
#include "testing.h"

namespace nibblecast {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using ::testing::IsEmpty;
using Texts = std::vector<std::string>;
using Ids = std::vector<int32_t>;

std::string whole_text(const Record& record) {
  std::string text = record.text;
  while (record.more && record.more(text)) {
  }
  return text;
}

// At most `step` bytes at once.
ByteSource in_steps(std::string_view bytes, size_t step) {
  return [source = source_of(bytes), step](std::span<std::byte> to) mutable {
    return source(to.first(std::min(step, to.size())));
  };
}

Texts texts_of(std::string_view file, const std::string& key = "", size_t step = SIZE_MAX) {
  const auto records =
      read_records(in_steps(file, step), file.size(), "F", {.vocab_size = 100, .column = key});
  Texts texts;
  while (const auto record = records->next()) texts.push_back(whole_text(*record));
  return texts;
}

Ids ids_of(std::string_view file) {
  const auto records = read_records(source_of(file), file.size(), "F", {.vocab_size = 100, .column = ""});
  return records->next()->ids.value();
}

template <class... Parts>
void refuse(std::string_view file, const Parts&... parts) {
  expect_error(
      ErrorKind::kBadInput, [&] { texts_of(file); }, "F", parts...);
}

TEST(RecordFormats, ArraysOfObjectsAndStrings) {
  EXPECT_THAT(texts_of(R"([{"text": "a"}, {"text": "b"}])"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of("\n[\n  {\n    \"text\": \"a\"\n  }\n,\r\n  \"b\"\n]\n"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of(R"(["a", "b\n\"c\""])"), ElementsAre("a", "b\n\"c\""));
  EXPECT_THAT(texts_of("[]"), IsEmpty());
}

TEST(RecordFormats, LinesOfStringsAndObjects) {
  EXPECT_THAT(texts_of("\"a\"\n\n\"b, c\"\r\n"), ElementsAre("a", "b, c"));
  EXPECT_THAT(texts_of("\"a\""), ElementsAre("a"));
  EXPECT_THAT(texts_of("{\"text\": \"a\"}\n\"b\"\n"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of("{\n  \"text\": \"a\"\n}\n{\"text\":\n\"b\"}"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of(R"({"text": "\u00e9\ud83d\ude00\/\b"})"), ElementsAre("\u00e9\U0001f600/\b"));
}

TEST(RecordFormats, Conversations) {
  EXPECT_THAT(texts_of(R"({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": null},
                          {"from": "gpt", "value": "b"}]})"),
              ElementsAre("a\nb"));
  EXPECT_THAT(texts_of(R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                          {"type": "text", "text": "b"}]}, {"role": "assistant", "content": "c"}]})"),
              ElementsAre("ab\nc"));
  EXPECT_THAT(texts_of(R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"content": "b"}]})"),
              ElementsAre("a\nb"));
  EXPECT_THAT(texts_of(R"({"text": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})"),
              ElementsAre("ab"));
}

TEST(RecordFormats, Instructions) {
  EXPECT_THAT(texts_of(R"({"instruction": "a", "input": "", "output": "c"})"), ElementsAre("a\nc"));
  EXPECT_THAT(texts_of(R"({"output": "c", "input": "b", "instruction": "a"})"), ElementsAre("a\nb\nc"));
  EXPECT_THAT(texts_of(R"({"instruction": "a", "response": "c"})"), ElementsAre("a\nc"));
  EXPECT_THAT(texts_of(R"({"prompt": "a", "response": "b"})"), ElementsAre("a\nb"));
  EXPECT_THAT(texts_of(R"({"prompt": "a", "completion": "b"})"), ElementsAre("a\nb"));
  EXPECT_THAT(texts_of(R"({"prompt": "a", "label": 3})"), ElementsAre("a"));
  EXPECT_THAT(texts_of(R"({"content": "a"})"), ElementsAre("a"));
}

TEST(RecordFormats, TablesByColumn) {
  EXPECT_THAT(texts_of("text\n\"a, \"\"b\"\"\nc\"\nd\n"), ElementsAre("a, \"b\"\nc", "d"));
  EXPECT_THAT(texts_of("id,text,label\r\n1,\"a\",x\r\n2,b,y\r\n"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of("id\ttext\n1\ta, b\n"), ElementsAre("a, b"));
  EXPECT_THAT(texts_of("id;text\n1;a, b\n"), ElementsAre("a, b"));
  EXPECT_THAT(texts_of("\"id\",\"text\"\n1,a\n"), ElementsAre("a"));
  EXPECT_THAT(texts_of("\xEF\xBB\xBFinstruction,input,output\na,,c\n"), ElementsAre("a\nc"));
  EXPECT_THAT(texts_of("text,id\na\rb,1\n"), ElementsAre("a\rb"));
  EXPECT_THAT(texts_of("id,body\n1,a\n2,b\n", "body"), ElementsAre("a", "b"));
  EXPECT_THAT(texts_of("id,text\n1,\n"), ElementsAre(""));
}

TEST(RecordFormats, AKeyOfTheUsersOwn) {
  EXPECT_THAT(texts_of("{\"body\": \"a\", \"text\": \"b\"}", "body"), ElementsAre("a"));
  EXPECT_THAT(texts_of(R"({"dialog": ["a", "b"]})", "dialog"), ElementsAre("a\nb"));
  EXPECT_THAT(texts_of(R"({"dialog": [{"role": "user", "content": "a"}]})", "dialog"), ElementsAre("a"));
  expect_error(
      ErrorKind::kBadInput, [] { texts_of("{\"text\": \"a\", \"id\": 1}", "body"); }, "there is no 'body'",
      "found id, text");
  expect_error(
      ErrorKind::kBadInput, [] { texts_of("id,text\n1,b\n", "body"); }, "expected body", "found id, text");
}

TEST(RecordFormats, AnythingElseIsPlainText) {
  for (const std::string text :
       {"a, b\nc\n", "Dear Ann,\nhow are you, and Bob?\n", "\"Hello,\" she said.\n\"Hi.\"\n",
        "\"a\" and more\n", "Text, that has commas.\nAnd others, too.\n", " leading", "a\tb\n", "1,2,3\n"}) {
    EXPECT_THAT(texts_of(text), ElementsAre(text));
  }
}

TEST(RecordFormats, RefusesTheRestByName) {
  refuse(R"({"body": "a", "id": 1})", "line 1", "none of the keys", "found body, id", "--calib-key");
  refuse(R"({"text": null, "id": null})", "found id, text (null)");
  refuse(R"([{"text": "a"}, {"foo": "b"}])", "element 2", "found foo");
  refuse("[1, 2]", "element 1", "not a JSON object or string", "number");
  refuse(R"([{"text": 1}])", "'text' is not a string");
  refuse(R"({"data": [{"text": "a"}]})", "found data");
  refuse(R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]})",
         "no 'text'", "only text");
  refuse("id,body\n1,a\n2,b\n", "a table without a column", "expected text, prompt", "found id, body",
         "--calib-key");
  refuse("text,id\na,1\nb\n", "line 3", "expected 2, found 1");
  refuse("text,id\n\"a\"b,1\n", "line 2", "a quote closes");
  refuse("text,id\n\"a,1\n", "the quote that opens in line 2 never closes");
}

TEST(RecordFormats, RefusesWhatOnlyBeginsLikeJson) {
  refuse("{hello}", "line 1", "at byte 1", "not valid JSON", "must not begin like JSON");
  refuse("[Music] hello", "at byte 1", "not valid JSON");
  refuse("[\"a\" \"b\"]", "at byte 5", "not a JSON array");
  refuse("[\"a\",]", "not a JSON array");
  refuse("[\"a\", \"b\"", "not a JSON array", "is the file complete");
  refuse("[\"a\"]\n[\"b\"]", "line 2", "not a JSON array");
  refuse("{\"text\": \"a\"}\n{\"text\": \"b\"", "the text ends within what begins in line 2");
  refuse("\"a\"\n\"b", "the text ends within what begins in line 2");
  refuse("\"a\"\nb\n", "line 2", "at byte 4", "not valid JSON");
  refuse("{\"text\": \"a\nb\"}", "a control character");
  refuse(R"({"text": "\x"})", "no escape");
  refuse(R"({"text": "\ud83d half"})", "line 1", "not valid JSON");
  refuse(R"({"text": "\ude00"})", "surrogate");
  refuse(R"({"text": "a", "text": "b"})", "'text' appears twice");
  refuse("{\"text\": 01}", "not valid JSON");
  refuse("{\"text\": \"a\" \"b\"}", "not valid JSON");
  refuse("{\"text\": \"a\",}", "not valid JSON");
  refuse("{\"text\": tru}", "not valid JSON");
  refuse("{\"text\": \"a\", \"x\": " + std::string(70, '[') + std::string(70, ']') + "}",
         "nested too deeply");
}

TEST(RecordFormats, RefusesWhatIsNoText) {
  refuse("\n\n\n", "nothing but white space");
  refuse(std::string(200'000, '\n'), "nothing but white space");
  refuse("\x1f\x8b\x08 zipped", "compressed (gzip)", "`zcat F | nibblecast ... --calib -`");
  refuse("\x28\xb5\x2f\xfd zipped", "compressed (zstd)", "zstdcat F |");
  refuse(std::string("\xfd"
                     "7zXZ\0 zipped",
                     13),
         "compressed (xz)", "xzcat F |");
  refuse("BZh91AY", "compressed (bzip2)", "bzcat F |");
  refuse("\xff\xfe{\0", "not UTF-8");
  EXPECT_THAT(texts_of("BZhello"), ElementsAre("BZhello"));
}

TEST(RecordFormats, AttentionMasksAreHonoured) {
  EXPECT_THAT(ids_of(R"({"input_ids": [1, 2, 3, 0, 0], "attention_mask": [1, 1, 1, 0, 0]})"),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(ids_of(R"({"attention_mask": [0, 0, 1, 1], "input_ids": [-100, 999, 1, 2]})"),
              ElementsAre(1, 2));
  EXPECT_THAT(ids_of(R"({"input_ids": [9, 1, 9], "attention_mask": [false, true, false]})"), ElementsAre(1));
  EXPECT_THAT(ids_of(R"({"input_ids": [1, 2], "attention_mask": [0, 0]})"), IsEmpty());
  EXPECT_THAT(ids_of(R"({"input_ids": [1, 2], "attention_mask": null})"), ElementsAre(1, 2));
  refuse(R"({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]})", "has holes", "1 is 0");
  refuse(R"({"input_ids": [1, 2, 3], "attention_mask": [1, 1]})", "not as long", "expected 3, found 2");
  refuse(R"({"input_ids": [1, 2], "attention_mask": [1, 2]})", "attention_mask[1]");
  refuse(R"({"input_ids": [1, 2], "attention_mask": "11"})", "not a list");
  refuse(R"({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]})", "attention_mask[0]");
}

// However the bytes come.
TEST(RecordFormats, ReadsTheSameInSmallSteps) {
  for (const std::string file :
       {"[{\"text\": \"a\u00e9\\u00e9 b\"}, \"c\"]", "id,text\r\n1,\"a\u00e9,\"\"\r\n b\"\r\n2,c\r\n",
        "pl\u00e4in \u4f60\u597d text\r\n",
        "\xEF\xBB\xBF{\"text\": \"a\"}\r\n\r\n{\"prompt\": \"b\", \"response\": 1e-3}"}) {
    const auto read = [&](size_t step) -> Texts {
      try {
        return texts_of(file, "", step);
      } catch (const Error& error) {
        return {error.what()};
      }
    };
    for (const size_t step : {1, 2, 3, 7}) EXPECT_EQ(read(step), read(SIZE_MAX)) << file;
  }
}

// Borders of what is read at once, at every place of what matters.
TEST(RecordFormats, ReadsTheSameAcrossWindows) {
  for (size_t before = TextReader::kReadBytes - 60; before < TextReader::kReadBytes; ++before) {
    const std::string padding(before, 'x');
    EXPECT_THAT(texts_of("{\"text\": \"" + padding + "\\u00e9\u00e9\"}\n{\"text\": \"b\"}"),
                ElementsAre(padding + "\u00e9\u00e9", "b"));
    EXPECT_THAT(texts_of("id,text\r\n\"" + padding + "\",\"a\"\"b\r\n\u00e9\"\r\n2,c\r\n"),
                ElementsAre("a\"b\r\n\u00e9", "c"));
    EXPECT_THAT(texts_of("y " + padding + "\u00e9\U0001f600 z"),
                ElementsAre("y " + padding + "\u00e9\U0001f600 z"));
  }
}

TEST(RecordFormats, HoldsTheBeginningOfALongRecord) {
  std::string text;
  while (text.size() <= 2 * kMostHeldBytes) text += "\u00e9\u4f60 words \\n";
  const auto read = [](std::string_view file) {
    const auto records = read_records(source_of(file), file.size(), "F", {.vocab_size = 100, .column = ""});
    const Record record = *records->next();
    EXPECT_GT(record.text.size(), kMostHeldBytes - 5);
    EXPECT_LE(record.text.size(), kMostHeldBytes);
    expect_error(
        ErrorKind::kRefused, [&] { whole_text(record); }, "F", "longer than the 16777216 bytes");
    EXPECT_EQ(records->next()->text, "b");
  };
  read("{\"text\": \"" + text + "\"}\n{\"text\": \"b\"}\n");
  read("{\"messages\": [{\"content\": \"" + text + "\"}, {\"content\": \"c\"}]}\n{\"text\": \"b\"}\n");
  read("text,id\n\"" + text + "\",1\nb,2\n");
}

}  // namespace
}  // namespace nibblecast
