#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "base/json.h"
#include "checkpoint/memory_file.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using testing::MemoryFile;

const std::filesystem::path kGolden =
    std::filesystem::path(NIBBLECAST_SOURCE_DIR) / "tests/checkpoint/golden";

std::string length_bytes(uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

// A file with this header and so many data bytes.
std::string file_of(const std::string& json, size_t data_bytes) {
  return length_bytes(json.size()) + json + std::string(data_bytes, '\0');
}

SafetensorsHeader read(const std::string& content) {
  MemoryFile file("m.safetensors", content);
  return read_safetensors_header(file);
}

template <class... Parts>
void refuse(const std::string& content, const Parts&... parts) {
  expect_error(
      ErrorKind::kBadInput, [&] { read(content); }, "m.safetensors: ", parts...);
}

// The header with one tensor 'a' of these fields.
std::string one(const std::string& fields) { return R"({"a":{)" + fields + "}}"; }

constexpr const char* kGood = R"({"a":{"dtype":"I16","shape":[2,3],"data_offsets":[0,12]}})";

std::vector<std::string> names(const SafetensorsHeader& header) {
  std::vector<std::string> all;
  for (const Tensor& tensor : header.tensors) all.push_back(tensor.name);
  return all;
}

TEST(ReadHeader, ReadsOneTensor) {
  const SafetensorsHeader header = read(file_of(kGood, 12));
  ASSERT_EQ(header.tensors.size(), 1u);
  const Tensor& tensor = header.tensors[0];
  EXPECT_EQ(tensor.name, "a");
  EXPECT_EQ(tensor.dtype, Dtype::kI16);
  EXPECT_EQ(tensor.shape, (Shape{2, 3}));
  EXPECT_EQ(header.data_offset, 8 + std::strlen(kGood));
  EXPECT_EQ(tensor.offset, header.data_offset);
  EXPECT_EQ(tensor.size_bytes, 12u);
  EXPECT_EQ(header.json, kGood);
}

TEST(ReadHeader, TensorsComeInFileOrder) {
  const SafetensorsHeader header = read(file_of(
      R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                  "q":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},"c":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
      4));
  EXPECT_THAT(names(header), ::testing::ElementsAre("b", "q", "z", "c"));
}

TEST(ReadHeader, TakesWhatTheFormatAllows) {
  EXPECT_TRUE(read(file_of("{}", 0)).tensors.empty());
  EXPECT_TRUE(read(file_of("{}      ", 0)).tensors.empty());
  EXPECT_EQ(read(file_of(one(R"("data_offsets":[0,4],"shape":[],"dtype":"F32")"), 4)).tensors[0].shape,
            Shape{});
  EXPECT_EQ(
      read(file_of(one(R"("dtype":"F32","shape":[5,0,7],"data_offsets":[0,0])"), 0)).tensors[0].size_bytes,
      0u);
  EXPECT_EQ(read(file_of(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1)).tensors[0].name, "");
  EXPECT_TRUE(read(file_of(R"({"__metadata__":{}})", 0)).metadata.empty());
}

TEST(ReadHeader, RefusesAFileThatEndsInItsHeader) {
  refuse("", "the file is empty", "truncated download?");
  refuse("\x10", "at byte 1", "expected at least 8 bytes, found 1");
  refuse(length_bytes(100) + "{}", "at byte 10", "ends 98 bytes before its header does",
         "expected at least 108, found 10");
}

TEST(ReadHeader, RefusesAnAbsurdLength) {
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{7}, uint64_t{100'000'001}}) {
    refuse(length_bytes(length) + "{}", "the header cannot be as long as the file says",
           std::to_string(length));
  }
}

TEST(ReadHeader, RefusesAGitLfsPointer) {
  refuse("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Git LFS pointer",
         "git lfs pull");
}

TEST(ReadHeader, RefusesAFileThatEndsInItsData) {
  const std::string whole = file_of(kGood, 12);
  refuse(whole.substr(0, whole.size() - 1), "tensor 'a'", "ends 1 byte before its data does",
         "truncated download?");
  const std::string two = file_of(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[9],"data_offsets":[4,13]}})",
      5);
  refuse(two, "tensor 'b'", "at byte " + std::to_string(two.size()), "ends 8 bytes before");
}

TEST(ReadHeader, RefusesBytesAfterTheLastTensor) {
  refuse(file_of(kGood, 15), "at byte " + std::to_string(8 + std::strlen(kGood) + 12),
         "3 bytes after the last tensor");
  refuse(file_of("{}", 1), "1 byte after the last tensor");
}

TEST(ReadHeader, RefusesWhatIsNotJson) {
  refuse(file_of("", 0), "does not begin with '{'");
  refuse(file_of(" {}", 0), "at byte 8", "does not begin with '{'");
  refuse(file_of("[]", 0), "does not begin with '{'");
  refuse(file_of(R"({"a")", 0), "tensor 'a'", "not valid JSON");
  refuse(file_of("{}x", 0), "at byte 10", "not valid JSON");
  refuse(file_of("{}{}", 0), "at byte 10", "not valid JSON");
  refuse(file_of("{\"\xff\":1}", 0), "at byte 10", "not valid JSON");
  refuse(file_of(std::string("{}\0\0", 4), 0), "at byte 10", "NUL");
  refuse(file_of(std::string("{\"a\0b\":1}", 9), 0), "not valid JSON");
}

TEST(ReadHeader, RefusesNesting) {
  refuse(file_of(R"({"a":)" + std::string(100'000, '['), 0), "tensor 'a'", "found an array");
  std::string objects;
  for (int depth = 0; depth < 100'000; ++depth) objects += R"({"shape":)";
  refuse(file_of(R"({"a":)" + objects, 0), "tensor 'a'", "found an object");
}

TEST(ReadHeader, RefusesAnEntryThatIsNoObject) {
  for (const std::string value : {"1", "null", "\"x\"", "[1]", "true", "1.5"}) {
    refuse(file_of(R"({"a":)" + value + "}", 0), "tensor 'a'",
           "an object with dtype, shape and data_offsets");
  }
}

TEST(ReadHeader, RefusesKeys) {
  refuse(file_of(one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1), "tensor 'a'",
         "unknown key", "'x'");
  refuse(file_of(one(R"("shape":[1],"data_offsets":[0,1])"), 1), "key 'dtype' is missing");
  refuse(file_of(one(R"("dtype":"U8","data_offsets":[0,1])"), 1), "key 'shape' is missing");
  refuse(file_of(one(R"("dtype":"U8","shape":[1])"), 1), "key 'data_offsets' is missing");
  refuse(file_of(one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"shape":[1])"), 1),
         "key 'shape' appears twice");
}

TEST(ReadHeader, RefusesANameTwice) {
  refuse(
      file_of(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},
                     "a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
          3),
      "tensor 'a'", "names it twice");
}

TEST(ReadHeader, RefusesDtypes) {
  refuse(file_of(one(R"("dtype":"BF17","shape":[1],"data_offsets":[0,1])"), 1), "tensor 'a'",
         "unknown dtype: 'BF17'");
  refuse(file_of(one(R"("dtype":"f32","shape":[1],"data_offsets":[0,1])"), 1), "unknown dtype: 'f32'");
  refuse(file_of(one(R"("dtype":3,"shape":[1],"data_offsets":[0,1])"), 1), "expected dtype to be a string");
  for (const std::string dtype : {"F6_E2M3", "F6_E3M2", "C64", "F8_E4M3FNUZ"}) {
    const std::string content =
        file_of(one(R"("dtype":")" + dtype + R"(","shape":[2],"data_offsets":[0,1])"), 1);
    expect_error(
        ErrorKind::kUnsupported, [&] { read(content); }, "tensor 'a'", "not supported: '" + dtype + "'");
  }
}

TEST(ReadHeader, HalfBytes) {
  const SafetensorsHeader header =
      read(file_of(one(R"("dtype":"F4","shape":[3,4],"data_offsets":[0,6])"), 6));
  EXPECT_EQ(header.tensors[0].dtype, Dtype::kF4);
  EXPECT_EQ(header.tensors[0].size_bytes, 6u);
  refuse(file_of(one(R"("dtype":"F4","shape":[3,4],"data_offsets":[0,12])"), 12),
         "expected 6 bytes for F4 [3, 4]");
  refuse(file_of(one(R"("dtype":"F4","shape":[3,3],"data_offsets":[0,5])"), 5),
         "an odd number of half bytes");
}

TEST(ReadHeader, RefusesShapes) {
  const auto with = [](const std::string& shape) {
    return file_of(one(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4])"), 4);
  };
  refuse(with("[-1]"), "tensor 'a'", "a whole number", "found a negative number");
  refuse(with("[1.0]"), "found 1.0");
  refuse(with("[1e0]"), "found 1e0");
  refuse(with("[18446744073709551616]"), "found 18446744073709551616");
  refuse(with("[null]"), "found null");
  refuse(with("[[1]]"), "found an array");
  refuse(with("1"), "expected shape to be an array");
  refuse(with("[1,1,2]"), "do not fit dtype and shape", "expected 8 bytes for F32 [1, 1, 2], found 4");
  refuse(with("[4294967296,4294967296]"), "shape is larger than any file");
  refuse(with("[18446744073709551615]"), "shape is larger than any file");
  refuse(with("[4611686018427387904]"), "shape is larger than any file");  // fits in elements, not in bytes
  refuse(with("[4294967296,4294967296,0]"), "shape is larger than any file");
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  refuse(with(ones + "]"), "more than 64 dimensions");
}

TEST(ReadHeader, RefusesOffsets) {
  const auto with = [](const std::string& offsets) {
    return file_of(one(R"("dtype":"U8","shape":[4],"data_offsets":)" + offsets), 4);
  };
  refuse(with("[4,0]"), "tensor 'a'", "run backwards", "[4, 0]");
  refuse(with("[0,-4]"), "found a negative number");
  refuse(with("[0,4.0]"), "found 4.0");
  refuse(with("[4]"), "two whole numbers", "found the end of the array");
  refuse(with("[]"), "found the end of the array");
  refuse(with("[0,4,8]"), "two whole numbers");
  refuse(with("{}"), "expected data_offsets to be an array");
  refuse(with("[0,18446744073709551615]"), "beyond any file");
  refuse(with("[18446744073709551612,18446744073709551615]"), "beyond any file");
  refuse(with("[1,5]"), "a gap lies in front of it", "expected data_offsets from 0, found 1");
}

TEST(ReadHeader, RefusesOverlapsAndGaps) {
  const auto with = [](const std::string& second) {
    return file_of(
        R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":)" +
            second + "}}",
        9);
  };
  refuse(with("[3,7]"), "tensor 'b'", "overlaps the tensor before it",
         "expected data_offsets from 4, found 3");
  refuse(with("[5,9]"), "tensor 'b'", "a gap lies in front of it", "found 5");
  refuse(with("[0,4]"), "tensor 'b'", "overlaps");
}

TEST(ReadHeader, RefusesMetadata) {
  refuse(file_of(R"({"__metadata__":[]})", 0), "__metadata__ to be an object");
  refuse(file_of(R"({"__metadata__":null})", 0), "__metadata__ to be an object");
  refuse(file_of(R"({"__metadata__":{"a":1}})", 0), "__metadata__ to hold strings only");
  refuse(file_of(R"({"__metadata__":{"a":{}}})", 0), "__metadata__ to hold strings only");
  refuse(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "'__metadata__' appears twice");
  refuse(file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "key 'k' appears twice");
}

TEST(ReadHeader, MessagesHoldNoControlCharacters) {
  try {
    read(file_of(R"({"a\u001b[31m":1})", 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("a\\x1b[31m"));
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\x1b")));
  }
}

TEST(ReadHeader, AFileThatShrinksMeanwhileIsAnIoError) {
  const std::string whole = file_of(kGood, 12);
  MemoryFile file("m.safetensors", whole.substr(0, 20), whole.size());
  expect_error(
      ErrorKind::kIo, [&] { read_safetensors_header(file); }, "m.safetensors", "at byte 20");
}

TEST(WriteHeader, ReadsBack) {
  const std::vector<Tensor> tensors = {
      {.name = "b \"\\ \n\xc3\xa4", .dtype = Dtype::kF8E8M0, .shape = {2, 3}, .offset = 0, .size_bytes = 6},
      {.name = "a", .dtype = Dtype::kF32, .offset = 6, .size_bytes = 4},
      {.name = "none", .dtype = Dtype::kI64, .shape = {0, 4}, .offset = 10, .size_bytes = 0},
      {.name = "z", .dtype = Dtype::kBF16, .shape = {5}, .offset = 10, .size_bytes = 10}};
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"\"", "\x01"}};
  const std::string bytes = write_safetensors_header(tensors, metadata);
  EXPECT_EQ(bytes.size() % 8, 0u);
  const SafetensorsHeader header = read(bytes + std::string(20, 'x'));
  EXPECT_EQ(header.metadata, metadata);
  EXPECT_EQ(header.data_offset, bytes.size());
  ASSERT_EQ(header.tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(header.tensors[i].name, tensors[i].name);
    EXPECT_EQ(header.tensors[i].dtype, tensors[i].dtype) << i;
    EXPECT_EQ(header.tensors[i].shape, tensors[i].shape) << i;
    EXPECT_EQ(header.tensors[i].offset, bytes.size() + tensors[i].offset) << i;
    EXPECT_EQ(header.tensors[i].size_bytes, tensors[i].size_bytes) << i;
  }
}

TEST(WriteHeader, WritesTheseBytes) {
  EXPECT_EQ(write_safetensors_header({}, {}), length_bytes(8) + "{}      ");
  const Tensor tensor{.name = "a", .dtype = Dtype::kU8, .shape = {1, 2}, .offset = 0, .size_bytes = 2};
  EXPECT_EQ(write_safetensors_header({&tensor, 1}, {{"k", "v"}}),
            length_bytes(80) +
                R"({"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[1,2],"data_offsets":[0,2]}})");
}

TEST(WriteHeader, RefusesTextThatIsNotUtf8) {
  expect_error(
      ErrorKind::kBadInput,
      [] {
        write_safetensors_header({}, {{"k", "\xff"}});
      },
      "not UTF-8");
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

TEST(Golden, ReadsWhatTheSafetensorsPackageWrote) {
  const std::string content = read_text(system_files(), kGolden / "all_dtypes.safetensors", 10'000);
  const Json golden = Json::parse(read_text(system_files(), kGolden / "all_dtypes.json", 10'000));
  const SafetensorsHeader header = read(content);
  EXPECT_EQ(Json(header.metadata), golden["metadata"]);
  ASSERT_EQ(header.tensors.size(), golden["tensors"].size());
  for (const Json& row : golden["tensors"]) {
    const auto tensor = std::ranges::find(header.tensors, row[0].get<std::string>(), &Tensor::name);
    ASSERT_NE(tensor, header.tensors.end()) << row[0];
    EXPECT_EQ(dtype_name(tensor->dtype), row[1].get<std::string>()) << row[0];
    EXPECT_EQ(tensor->shape, row[2].get<Shape>()) << row[0];
    EXPECT_EQ(hex(std::string_view(content).substr(tensor->offset, tensor->size_bytes)),
              row[3].get<std::string>())
        << row[0];
  }
}

TEST(Golden, EveryPrefixIsRefused) {
  const std::string content = read_text(system_files(), kGolden / "all_dtypes.safetensors", 10'000);
  for (size_t size = 0; size < content.size(); ++size) refuse(content.substr(0, size), "truncated download?");
}

TEST(Golden, WritesWhatTheSafetensorsPackageWrote) {
  const std::string content = read_text(system_files(), kGolden / "all_dtypes.safetensors", 10'000);
  SafetensorsHeader header = read(content);
  for (Tensor& tensor : header.tensors) tensor.offset -= header.data_offset;
  EXPECT_EQ(write_safetensors_header(header.tensors, header.metadata), content.substr(0, header.data_offset));
  EXPECT_EQ(write_safetensors_header({}, {}),
            read_text(system_files(), kGolden / "nothing.safetensors", 100));
}

}  // namespace
}  // namespace nibblecast
