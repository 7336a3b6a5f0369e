#include "checkpoint/index.h"

#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;

template <class... Parts>
void refuse(const std::string& text, const Parts&... parts) {
  expect_error(
      ErrorKind::kBadInput, [&] { parse_index(text, "index.json"); }, "index.json: ", parts...);
}

TEST(ParseIndex, SortsShardsAndTensors) {
  const CheckpointIndex index = parse_index(
      R"({"other":[{"x":[1,{}]}],"weight_map":{"c":"2","a":"3","b":"2"},"metadata":{"total_size":7,"x":{"y":[null]}},"n":0})",
      "index.json");
  EXPECT_EQ(index.shards, (std::vector<std::string>{"2", "3"}));
  ASSERT_EQ(index.weight_map.size(), 3u);
  EXPECT_EQ(index.weight_map[0].tensor, "a");
  EXPECT_EQ(index.weight_map[0].shard, 1u);
  EXPECT_EQ(index.weight_map[2].tensor, "c");
  EXPECT_EQ(index.weight_map[2].shard, 0u);
  EXPECT_EQ(index.metadata.dump(), R"({"total_size":7,"x":{"y":[null]}})");
}

TEST(ParseIndex, MetadataMayBeAbsentOrNull) {
  EXPECT_EQ(parse_index(R"({"weight_map":{}})", "f").metadata, Json::object());
  EXPECT_EQ(parse_index(R"({"metadata":null,"weight_map":{}})", "f").metadata, Json::object());
}

TEST(ParseIndex, RefusesWhatIsNoIndex) {
  refuse("", "not valid JSON");
  refuse("[]", "at byte 0", "expected an object, found an array");
  refuse("7", "found a number");
  refuse("{}", "has no 'weight_map'");
  refuse(R"({"weight_map":[]})", "at byte 14", "expected 'weight_map' to be an object, found an array");
  refuse(R"({"weight_map":null})", "found null");
  refuse(R"({"weight_map":{"a":1}})", "tensor 'a'", "expected the name of a shard, found a number");
  refuse(R"({"weight_map":{"a":{}}})", "tensor 'a'", "found an object");
  refuse(R"({"weight_map":{"a":["b"]}})", "tensor 'a'", "found an array");
  refuse(R"({"weight_map":{}} {})", "at byte 18", "not valid JSON");
  refuse(std::string("{\"weight_map\":{}}\0{", 19), "at byte 17", "NUL");
  refuse("{\"weight_map\":{\"a\":\"\xff\"}}", "tensor 'a'", "at byte 20", "not valid JSON");
  refuse(R"({"weight_map":{},"metadata":[]})", "'metadata' is not an object", "found an array");
  refuse(R"({"weight_map":{},"metadata":3})", "'metadata' is not an object", "found a number");
}

TEST(ParseIndex, RefusesTheSameKeyTwice) {
  refuse(R"({"weight_map":{},"weight_map":{}})", "key 'weight_map' appears twice");
  refuse(R"({"weight_map":{"a":"1","b":"1","a":"1"}})", "tensor 'a'", "appears twice in weight_map");
  refuse(R"({"weight_map":{},"metadata":{"k":1,"k":2}})", "key 'k' appears twice");
}

TEST(ParseIndex, RefusesPathsThatLeaveTheFolder) {
  for (const std::string shard : {"/etc/passwd", "../m.safetensors", "a/../../m.safetensors", "a/.."}) {
    refuse(R"({"weight_map":{"a":")" + shard + R"("}})", "tensor 'a'", "lies outside the folder", shard);
  }
  refuse(R"({"weight_map":{"a":""}})", "tensor 'a'", "is no file name");
  refuse(R"({"weight_map":{"a":"x\u0000y"}})", "tensor 'a'", "is no file name", "x\\x00y");
  EXPECT_NO_THROW(parse_index(R"({"weight_map":{"a":"sub/..m..safetensors"}})", "f"));
}

TEST(ParseIndex, RefusesWhatWouldFillMemory) {
  refuse(R"({"weight_map":{},"x":)" + std::string(1'000'000, '['), "nested too deeply");
  refuse(R"({"weight_map":{},"metadata":{"x":")" + std::string(1'000'001, 'x') + "\"}}",
         "'metadata' is too large");
  std::string keys = R"({"weight_map":{})";
  for (int i = 0; i < 2000; ++i) keys += ",\"" + std::to_string(i) + "\":0";
  refuse(keys + "}", "too many keys");
  std::string shards = R"({"weight_map":{"x":"x")";
  for (int i = 0; i < 100'001; ++i) shards += ",\"" + std::to_string(i) + "\":\"" + std::to_string(i) + '"';
  refuse(shards + "}}", "more shards than any checkpoint has");
}

}  // namespace
}  // namespace nibblecast
