#include "base/json.h"

#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;

TEST(ParseJson, ReadsAValue) {
  const Json value = parse_json(R"({"a": [1, 2.5, "x"], "b": null})", "f");
  EXPECT_EQ(value["a"][2], "x");
  EXPECT_TRUE(value["b"].is_null());
}

TEST(ParseJson, RefusesWithFileAndOffset) {
  const auto refuse = [](const std::string& text, const std::string& part) {
    expect_error(
        ErrorKind::kBadInput, [&] { parse_json(text, "config.json"); }, "config.json", part);
  };
  refuse("", "not valid JSON");
  refuse(R"({"a": 1} x)", "at byte 9");
  refuse(R"({"a": 1)", "not valid JSON");
  refuse("{\"a\": \"\xff\"}", "at byte");
  refuse(R"({"a": 1, "b": {"a": 1}, "a": 2})", "key 'a' appears twice");
  refuse(std::string(100000, '['), "nested too deeply");
  refuse(std::string("{}\0x", 4), "at byte 2");
}

TEST(ParseJson, OffsetsCountFromTheBase) {
  expect_error(
      ErrorKind::kBadInput, [] { parse_json("{x", "f", 8); }, "at byte 9");
}

TEST(ParseJson, SameKeyInDifferentObjectsIsFine) {
  EXPECT_NO_THROW(parse_json(R"({"a": {"k": 1}, "b": {"k": 2}})", "f"));
}

}  // namespace
}  // namespace nibblecast
