// Every container that a linear may lie in: found by its tensors, with the values that its format says, whole
// and by rows; and what fits none is refused by name.
#include "weights/container.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::expect_error;
using enum Dtype;

// ---- the formats, spelled out ----

float e8m0(uint8_t code) { return std::ldexp(1.0f, code - 127); }

float e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

float e2m1(uint8_t nibble) {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return (nibble & 8) != 0 ? -kMagnitudes[nibble & 7] : kMagnitudes[nibble & 7];
}

float f32(const std::byte* at) {
  float value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float bf16_value(const std::byte* at) {
  const std::byte wide[4] = {{}, {}, at[0], at[1]};
  return f32(wide);
}

float f16_value(const std::byte* at) {
  f16 value;
  std::memcpy(&value, at, sizeof value);
  return to_float(value);
}

// ---- tensors in memory ----

struct Held {
  Tensor tensor;
  std::vector<std::byte> bytes;
};

class Tensors {
 public:
  // Bytes that are finite values of moderate size in a weight or a scale of this dtype.
  Held& add(const std::string& name, Dtype dtype, const Shape& shape) {
    Held& held = tensors_[name];
    held.tensor = {.name = name,
                   .dtype = dtype,
                   .shape = shape,
                   .size_bytes = *stored_bytes(dtype, *element_count(shape))};
    held.bytes.resize(held.tensor.size_bytes);
    const bool is_scale = name.find("scale") != std::string::npos;
    for (size_t at = 0; at < held.bytes.size(); at += dtype_bytes(dtype))
      fill(dtype, is_scale, &held.bytes[at]);
    return held;
  }
  const Held& at(const std::string& name) const { return tensors_.at(name); }

  std::optional<LinearParts> find(const TileSize& tiles = {}) const {
    return find_linear(
        "m", tiles,
        [&](const std::string& name) {
          const auto found = tensors_.find(name);
          return found == tensors_.end() ? nullptr : &found->second.tensor;
        },
        [](const Tensor& tensor) { return Where{.file = "f.safetensors", .tensor = tensor.name}; });
  }

 private:
  void fill(Dtype dtype, bool is_scale, std::byte* to) {
    const float number = 0.5f + static_cast<float>(generator_() % 1000) / 999;
    const auto byte = static_cast<uint8_t>(generator_());
    if (dtype == kF32) std::memcpy(to, &number, sizeof number);
    if (dtype == kBF16) std::memcpy(to, reinterpret_cast<const std::byte*>(&number) + 2, 2);
    if (dtype == kF16) to[0] = std::byte(byte), to[1] = std::byte(0x30 + byte % 16);  // 0.125 to 2
    if (dtype_bytes(dtype) != 1) return;
    if (is_scale) {
      to[0] = std::byte(dtype == kF8E4M3 ? 0x28 + byte % 32 : 110 + byte % 32);  // no NaN
      return;
    }
    to[0] = std::byte((byte & 0x7f) == 0x7f && dtype == kF8E4M3 ? 0x7e : byte);
  }

  std::map<std::string, Held> tensors_;
  std::minstd_rand generator_{7};
};

// One spelling of a container, of 200 x 320 values: whole blocks in a row, no whole tiles.
constexpr uint64_t kRows = 200, kCols = 320;

struct Spelling {
  const char* name;
  Dtype weight;
  const char* suffix;  // of the scale; null: none
  Dtype scale;
  Shape scale_shape;
  LinearFormat format;
  const char* container;
  Shape scale_2 = {};  // of NVFP4
  const char* weight_name = "m.weight";
  Dtype shape = kI64;  // of int4's weight_shape
};

void PrintTo(const Spelling& spelling, std::ostream* out) { *out << spelling.name; }

LinearFormat format(StoredFormat stored, ScaleType scale_type = ScaleType::kE8M0, uint64_t tile_rows = 128,
                    uint64_t tile_cols = 128) {
  return {.stored = stored,
          .rows = kRows,
          .cols = kCols,
          .scale_type = scale_type,
          .tile_rows = tile_rows,
          .tile_cols = tile_cols};
}

std::vector<Spelling> spellings() {
  const auto fp8 = [](ScaleType type, uint64_t rows, uint64_t cols) {
    return format(StoredFormat::kFp8, type, rows, cols);
  };
  using enum ScaleType;
  const LinearFormat mxfp4 = format(StoredFormat::kMxfp4), nvfp4 = format(StoredFormat::kNvfp4);
  const auto int4 = [](ScaleType type, uint64_t group) {
    return format(StoredFormat::kInt4, type, 1, group);
  };
  const char* const packed = "m.weight_packed";
  const Shape tiles = {2, 3}, blocks = {kRows, kCols / 32};
  return {
      {"bf16", Dtype::kBF16, nullptr, {}, {}, format(StoredFormat::kBf16), "BF16"},
      {"f16", Dtype::kF16, nullptr, {}, {}, format(StoredFormat::kF16), "F16"},
      {"f32", Dtype::kF32, nullptr, {}, {}, format(StoredFormat::kF32), "F32"},
      {"scale_e8m0", kF8E4M3, ".scale", kF8E8M0, tiles, fp8(kE8M0, 128, 128), "FP8 blocks"},
      {"scale_f32", kF8E4M3, ".scale", Dtype::kF32, tiles, fp8(ScaleType::kF32, 128, 128), "FP8 blocks"},
      {"inverse_f32", kF8E4M3, ".weight_scale_inv", Dtype::kF32, tiles, fp8(ScaleType::kF32, 128, 128),
       "FP8 blocks"},
      {"inverse_bf16", kF8E4M3, ".weight_scale_inv", Dtype::kBF16, tiles, fp8(ScaleType::kBF16, 128, 128),
       "FP8 blocks"},
      {"inverse_e8m0", kF8E4M3, ".weight_scale_inv", kF8E8M0, tiles, fp8(kE8M0, 128, 128), "FP8 blocks"},
      {"inverse_f16", kF8E4M3, ".weight_scale_inv", Dtype::kF16, tiles, fp8(ScaleType::kF16, 128, 128),
       "FP8 blocks"},
      {"row_f16",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF16,
       {kRows, 1},
       fp8(ScaleType::kF16, 1, kCols),
       "FP8 with a scale a row"},
      {"int4_f16", kI32, ".weight_scale", Dtype::kF16, blocks, int4(ScaleType::kF16, 32), "int4", {}, packed},
      {"one_f32",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF32,
       {},
       fp8(ScaleType::kF32, kRows, kCols),
       "FP8 with one scale"},
      {"one_of_shape_1",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF32,
       {1},
       fp8(ScaleType::kF32, kRows, kCols),
       "FP8 with one scale"},
      {"one_bf16",
       kF8E4M3,
       ".weight_scale",
       Dtype::kBF16,
       {1},
       fp8(ScaleType::kBF16, kRows, kCols),
       "FP8 with one scale"},
      {"row_f32",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF32,
       {kRows, 1},
       fp8(ScaleType::kF32, 1, kCols),
       "FP8 with a scale a row"},
      {"row_of_one_axis",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF32,
       {kRows},
       fp8(ScaleType::kF32, 1, kCols),
       "FP8 with a scale a row"},
      {"row_bf16",
       kF8E4M3,
       ".weight_scale",
       Dtype::kBF16,
       {kRows, 1},
       fp8(ScaleType::kBF16, 1, kCols),
       "FP8 with a scale a row"},
      {"tiles_f32", kF8E4M3, ".weight_scale", Dtype::kF32, tiles, fp8(ScaleType::kF32, 128, 128),
       "FP8 blocks"},
      {"tiles_of_four_axes",
       kF8E4M3,
       ".weight_scale",
       Dtype::kF32,
       {2, 1, 3, 1},
       fp8(ScaleType::kF32, 128, 128),
       "FP8 blocks"},
      {"tiles_bf16", kF8E4M3, ".weight_scale", Dtype::kBF16, tiles, fp8(ScaleType::kBF16, 128, 128),
       "FP8 blocks"},
      {"mxfp8_u8", kF8E4M3, ".weight_scale", kU8, blocks, fp8(kE8M0, 1, 32), "MXFP8"},
      {"mxfp8_e8m0", kF8E4M3, ".weight_scale", kF8E8M0, blocks, fp8(kE8M0, 1, 32), "MXFP8"},
      {"mxfp4_i8_e8m0", kI8, ".scale", kF8E8M0, blocks, mxfp4, "MXFP4"},
      {"mxfp4_i8_u8", kI8, ".scale", kU8, blocks, mxfp4, "MXFP4"},
      {"mxfp4_u8_e8m0", kU8, ".scale", kF8E8M0, blocks, mxfp4, "MXFP4"},
      {"mxfp4_u8_u8", kU8, ".scale", kU8, blocks, mxfp4, "MXFP4"},
      {"mxfp4_f4", Dtype::kF4, ".scale", kF8E8M0, blocks, mxfp4, "MXFP4"},
      {"nvfp4_f4", Dtype::kF4, ".weight_scale", kF8E4M3, {kRows, kCols / 16}, nvfp4, "NVFP4"},
      {"nvfp4", kU8, ".weight_scale", kF8E4M3, {kRows, kCols / 16}, nvfp4, "NVFP4"},
      {"nvfp4_of_shape_1", kU8, ".weight_scale", kF8E4M3, {kRows, kCols / 16}, nvfp4, "NVFP4", {1}},
      {"mxfp4_packed", kU8, ".weight_scale", kU8, blocks, mxfp4, "MXFP4", {}, packed},
      {"mxfp4_packed_e8m0", kU8, ".weight_scale", kF8E8M0, blocks, mxfp4, "MXFP4", {}, packed},
      {"int4_bf16",
       kI32,
       ".weight_scale",
       Dtype::kBF16,
       blocks,
       int4(ScaleType::kBF16, 32),
       "int4",
       {},
       packed},
      {"int4_f32",
       kI32,
       ".weight_scale",
       Dtype::kF32,
       blocks,
       int4(ScaleType::kF32, 32),
       "int4",
       {},
       packed,
       kI32},
      {"int4_of_40",
       kI32,
       ".weight_scale",
       Dtype::kBF16,
       {kRows, 8},
       int4(ScaleType::kBF16, 40),
       "int4",
       {},
       packed},
      {"int4_of_rows",
       kI32,
       ".weight_scale",
       Dtype::kBF16,
       {kRows, 1},
       int4(ScaleType::kBF16, kCols),
       "int4",
       {},
       packed},
  };
}

class Containers : public ::testing::TestWithParam<Spelling> {
 protected:
  Containers() {
    const Spelling& one = GetParam();
    const uint64_t values = one.weight == kI32 ? 8 : one.weight == kI8 || one.weight == kU8 ? 2 : 1;
    tensors_.add(one.weight_name, one.weight, {kRows, kCols / values});
    if (one.suffix != nullptr) tensors_.add("m" + std::string(one.suffix), one.scale, one.scale_shape);
    if (is_int4()) add_shape();
    if (one.format.stored != StoredFormat::kNvfp4) return;
    const float scale_2 = 0.25f;
    std::memcpy(tensors_.add("m.weight_scale_2", Dtype::kF32, one.scale_2).bytes.data(), &scale_2, 4);
  }

  static bool is_int4() { return GetParam().format.stored == StoredFormat::kInt4; }
  void add_shape() {
    std::vector<std::byte>& bytes = tensors_.add("m.weight_shape", GetParam().shape, {2}).bytes;
    const int64_t wide[] = {kRows, kCols};
    const int32_t narrow[] = {kRows, kCols};
    std::memcpy(bytes.data(), GetParam().shape == kI32 ? static_cast<const void*>(narrow) : wide,
                bytes.size());
  }

  // Of tensor 3, 4, 5 and 6, each 100 bytes into it.
  LinearSource source() const {
    const LinearParts parts = tensors_.find().value();
    LinearSource source{.format = parts.format};
    Slice* const slices[] = {&source.weight, &source.scale, &source.scale_2, &source.shape};
    const Tensor* const found[] = {parts.weight, parts.scale, parts.scale_2, parts.shape};
    for (uint32_t part = 0; part < 4; ++part)
      if (found[part] != nullptr) *slices[part] = {3 + part, 100, found[part]->size_bytes};
    return source;
  }
  std::vector<std::span<const std::byte>> bytes() const {
    std::vector<std::span<const std::byte>> all = {tensors_.at(GetParam().weight_name).bytes};
    if (GetParam().suffix != nullptr)
      all.emplace_back(tensors_.at("m" + std::string(GetParam().suffix)).bytes);
    if (GetParam().format.stored == StoredFormat::kNvfp4)
      all.emplace_back(tensors_.at("m.weight_scale_2").bytes);
    if (is_int4()) all.emplace_back(tensors_.at("m.weight_shape").bytes);
    return all;
  }

  float code(uint64_t row, uint64_t col) const {
    const std::vector<std::byte>& weight = tensors_.at(GetParam().weight_name).bytes;
    const uint64_t at = row * kCols + col;
    if (GetParam().weight == Dtype::kF32) return f32(&weight[at * 4]);
    if (GetParam().weight == Dtype::kBF16) return bf16_value(&weight[at * 2]);
    if (GetParam().weight == Dtype::kF16) return f16_value(&weight[at * 2]);
    if (GetParam().weight == kF8E4M3) return e4m3(static_cast<uint8_t>(weight[at]));
    const auto pair = static_cast<uint8_t>(weight[at / 2]);
    if (is_int4()) return static_cast<float>(col % 2 == 0 ? pair & 15 : pair >> 4) - 8;
    return e2m1(col % 2 == 0 ? pair & 15 : pair >> 4);
  }
  float scale(uint64_t row, uint64_t col) const {
    if (GetParam().suffix == nullptr) return 1;
    const Held& scales = tensors_.at("m" + std::string(GetParam().suffix));
    const LinearFormat& is = GetParam().format;
    const bool is_mxfp4 = is.stored == StoredFormat::kMxfp4, is_nvfp4 = is.stored == StoredFormat::kNvfp4;
    const uint64_t tile_rows = is_mxfp4 || is_nvfp4 ? 1 : is.tile_rows;
    const uint64_t tile_cols = is_mxfp4 ? 32 : is_nvfp4 ? 16 : is.tile_cols;
    const uint64_t at = row / tile_rows * ((kCols + tile_cols - 1) / tile_cols) + col / tile_cols;
    if (scales.tensor.dtype == Dtype::kF32) return f32(&scales.bytes[at * 4]);
    if (scales.tensor.dtype == Dtype::kBF16) return bf16_value(&scales.bytes[at * 2]);
    if (scales.tensor.dtype == Dtype::kF16) return f16_value(&scales.bytes[at * 2]);
    const auto byte = static_cast<uint8_t>(scales.bytes[at]);
    return is_nvfp4 ? e4m3(byte) * 0.25f : e8m0(byte);
  }
  void expect_rows(const StoredLinear& view, uint64_t first, uint64_t count) const {
    ASSERT_EQ(rows_of(view), count);
    ASSERT_EQ(cols_of(view), kCols);
    std::vector<float> values(count * kCols);
    EXPECT_EQ(dequantize_rows(view, 0, count, values.data(), kCols).non_finite, std::nullopt);
    for (uint64_t row = 0; row < count; ++row) {
      for (uint64_t col = 0; col < kCols; ++col) {
        // In double, rounded once.
        const double value = double{code(first + row, col)} * double{scale(first + row, col)};
        ASSERT_EQ(values[row * kCols + col], static_cast<float>(value))
            << "row " << first + row << ", column " << col;
      }
    }
  }

  Tensors tensors_;
};

TEST_P(Containers, AreFoundByTheirTensors) {
  const auto parts = tensors_.find();
  ASSERT_TRUE(parts);
  EXPECT_EQ(parts->format, GetParam().format);
  EXPECT_STREQ(parts->container, GetParam().container);
  EXPECT_EQ(parts->weight, &tensors_.at(GetParam().weight_name).tensor);
  EXPECT_EQ(parts->shape != nullptr, is_int4());
  EXPECT_EQ(parts->scale != nullptr, GetParam().suffix != nullptr);
  EXPECT_EQ(parts->scale_2 != nullptr, GetParam().format.stored == StoredFormat::kNvfp4);
  EXPECT_EQ(parts->input_scale, nullptr);
}

TEST_P(Containers, HaveTheValuesOfTheirFormat) {
  const LinearSource whole = source();
  expect_rows(whole.view(kRows, bytes()), 0, kRows);
  uint64_t size = 0;
  for (const auto& part : bytes()) size += part.size();
  EXPECT_EQ(whole.size_bytes(), size);
}

TEST_P(Containers, CanBeReadByRows) {
  const LinearSource whole = source();
  for (const uint64_t step : {uint64_t{1}, uint64_t{3}}) {
    const uint64_t rows = step * whole.format.scale_rows();
    for (uint64_t first = 0; first < kRows; first += rows) {
      const uint64_t count = std::min(rows, kRows - first);
      std::vector<std::span<const std::byte>> parts;
      whole.for_parts([&](const Slice& part) {
        const Slice slice = whole.rows_of(part, first, count);
        ASSERT_EQ(slice.tensor, part.tensor);
        ASSERT_GE(slice.begin, part.begin);
        ASSERT_LE(slice.begin + slice.size_bytes, part.begin + part.size_bytes);
        parts.push_back(bytes()[parts.size()].subspan(slice.begin - part.begin, slice.size_bytes));
      });
      expect_rows(whole.view(count, parts), first, count);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EverySpelling, Containers, ::testing::ValuesIn(spellings()),
                         [](const auto& spelling) { return std::string(spelling.param.name); });

// ---- compressed-tensors' NVFP4 ----

TEST(PackedNvfp4, IsNvfp4WhoseScaleIsTheReciprocal) {
  Tensors tensors;
  tensors.add("m.weight_packed", kU8, {2, 16});
  tensors.add("m.weight_scale", kF8E4M3, {2, 2});
  const float reciprocal = 3;
  std::memcpy(tensors.add("m.weight_global_scale", Dtype::kF32, {1}).bytes.data(), &reciprocal, 4);
  tensors.add("m.input_global_scale", Dtype::kF32, {1});
  const LinearParts parts = tensors.find().value();
  EXPECT_STREQ(parts.container, "NVFP4");
  EXPECT_TRUE(parts.format.reciprocal_scales);
  EXPECT_EQ(parts.input_scale, &tensors.at("m.input_global_scale").tensor);
  const StoredLinear view = parts.format.view(2, nullptr, nullptr, tensors.at("m.weight_global_scale").bytes);
  EXPECT_EQ(std::get<Nvfp4View>(view).scale_2, 1 / 3.0f);
}

TEST(PackedNvfp4, LacksNothing) {
  Tensors tensors;
  tensors.add("m.weight_packed", kU8, {2, 16});
  expect_error(
      ErrorKind::kBadInput, [&] { tensors.find(); }, "m.weight_packed", "its scale is missing",
      "m.weight_scale");
  tensors.add("m.weight_scale", kF8E4M3, {2, 2});
  expect_error(
      ErrorKind::kUnsupported, [&] { tensors.find(); }, "m.weight_global_scale");
  tensors.add("m.weight_scale", kU8, {2, 2});
  expect_error(
      ErrorKind::kBadInput, [&] { tensors.find(); }, "'m.weight_scale'",
      "expected F8_E4M3 [2, 2], U8 or F8_E8M0 [2, 1]", "found U8 [2, 2]");
}

// ---- integers ----

class PackedInt4 : public ::testing::Test {
 protected:
  PackedInt4() {
    tensors_.add("m.weight_packed", kI32, {4, 16});
    tensors_.add("m.weight_scale", Dtype::kBF16, {4, 4});
    const int64_t shape[] = {4, 128};
    std::memcpy(tensors_.add("m.weight_shape", kI64, {2}).bytes.data(), shape, sizeof shape);
  }
  void check(int64_t rows, int64_t cols) {
    const int64_t shape[] = {rows, cols};
    std::memcpy(tensors_.add("m.weight_shape", kI64, {2}).bytes.data(), shape, sizeof shape);
    const LinearParts parts = tensors_.find().value();
    check_weight_shape(parts.format, *parts.shape, tensors_.at("m.weight_shape").bytes,
                       {.file = "f.safetensors", .tensor = parts.shape->name});
  }
  void refuse(ErrorKind kind, const std::vector<std::string>& parts, const TileSize& tiles = {}) {
    for (const std::string& part : parts)
      expect_error(
          kind, [&] { tensors_.find(tiles); }, part);
  }

  Tensors tensors_;
};

TEST_F(PackedInt4, TheShapeBesideIsTheValues) {
  check(4, 128);
  for (const auto& shape : {std::pair(4, 127), std::pair(128, 4), std::pair(-4, 128), std::pair(0, 0)})
    expect_error(
        ErrorKind::kBadInput, [&] { check(shape.first, shape.second); }, "f.safetensors", "m.weight_shape",
        "says another shape than its packed weight has", "expected [4, 128]");
  expect_error(
      ErrorKind::kBadInput, [&] { check(4, 64); }, "found [4, 64]");
}

TEST_F(PackedInt4, TheGroupIsTheConfigs) {
  EXPECT_EQ(tensors_.find(TileSize{.groups = {32}}).value().format.tile_cols, 32u);
  EXPECT_EQ(tensors_.find(TileSize{.groups = {32, 128}}).value().format.tile_cols, 32u);
  refuse(ErrorKind::kBadInput, {"'m.weight_scale'", "expected F16 or BF16 or F32 [4, 2], found BF16 [4, 4]"},
         TileSize{.groups = {64}});
  refuse(ErrorKind::kBadInput,
         {"'m.weight_scale'", "found BF16 [4, 4]", "config.json has groups of 64 and 128"},
         TileSize{.groups = {64, 128}});
}

TEST_F(PackedInt4, AGroupThatDoesNotDivideIsNamed) {
  tensors_.add("m.weight_scale", Dtype::kBF16, {4, 2});
  refuse(ErrorKind::kBadInput, {"'m.weight_scale'", "128 values a row, which groups of 48 do not divide"},
         TileSize{.groups = {48}});
}

TEST_F(PackedInt4, GroupsAreWholeWords) {
  for (const Shape& shape : {Shape{4, 3}, Shape{4, 32}, Shape{4, 0}, Shape{3, 4}, Shape{4}}) {
    tensors_.add("m.weight_scale", Dtype::kBF16, shape);
    refuse(ErrorKind::kBadInput,
           {"'m.weight_scale'", "does not fit its weight", "the weight is I32 [4, 16]"});
  }
}

TEST_F(PackedInt4, LacksNothing) {
  tensors_.add("m.weight_shape", kI64, {3});
  refuse(ErrorKind::kBadInput, {"'m.weight_shape'", "expected I64 or I32 [2], found I64 [3]"});
  tensors_.add("m.weight_shape", Dtype::kF32, {2});
  refuse(ErrorKind::kBadInput, {"'m.weight_shape'", "found F32 [2]"});
  tensors_.add("m.weight_scale", Dtype::kF64, {4, 4});
  refuse(ErrorKind::kUnsupported,
         {"'m.weight_scale'", "expected F16 or BF16 or F32 [4, 4], found F64 [4, 4]"});
  Tensors alone;
  alone.add("m.weight_packed", kI32, {4, 16});
  expect_error(
      ErrorKind::kBadInput, [&] { alone.find(); }, "is I32, and its scale is missing", "'m.weight_scale'");
  alone.add("m.weight_scale", Dtype::kBF16, {4, 4});
  expect_error(
      ErrorKind::kUnsupported, [&] { alone.find(); }, "is I32, and its shape is missing",
      "expected a tensor 'm.weight_shape'");
}

Json integers(const Json& group_size) {
  return {{"quantization_config",
           {{"config_groups",
             {{"group_0", {{"weights", {{"type", "int"}, {"num_bits", 4}, {"group_size", group_size}}}}}}}}}};
}

TEST(PackedInt4Config, SaysHowWideAGroupIs) {
  EXPECT_EQ(tile_size(integers(32), "c").groups, std::vector<uint64_t>{32});
  for (const Json& other : {Json(), Json(-1), Json("32"), Json(0), Json(1 << 30)})
    EXPECT_TRUE(tile_size(integers(other), "c").groups.empty());
  EXPECT_EQ(tile_size({{"text_config", integers(64)}}, "c").groups, std::vector<uint64_t>{64});
  Json two = integers(32);
  two["quantization_config"]["config_groups"]["group_1"] =
      integers(128)["quantization_config"]["config_groups"]["group_0"];
  EXPECT_EQ(tile_size(two, "c").groups, (std::vector<uint64_t>{32, 128}));
  two["quantization_config"]["config_groups"]["group_2"] =
      integers(Json())["quantization_config"]["config_groups"]["group_0"];
  EXPECT_TRUE(tile_size(two, "c").groups.empty());
  Json floats = integers(16);
  floats["quantization_config"]["config_groups"]["group_0"]["weights"]["type"] = "float";
  EXPECT_TRUE(tile_size(floats, "c").groups.empty());
}

TEST(ModuleOfWeight, IsWhatStandsBeforeIt) {
  EXPECT_EQ(module_of_weight("a.b.weight"), "a.b");
  EXPECT_EQ(module_of_weight("a.b.weight_packed"), "a.b");
  EXPECT_EQ(module_of_weight("a.b.weight_scale"), "");
  EXPECT_EQ(module_of_weight("norm"), "");
}

// ---- tiles of other sizes ----

TEST(ContainerTiles, AreTheConfigs) {
  Tensors tensors;
  tensors.add("m.weight", kF8E4M3, {100, 96});
  tensors.add("m.scale", kF8E8M0, {4, 2});
  const LinearFormat found = tensors.find(TileSize{.rows = 32, .cols = 64}).value().format;
  EXPECT_EQ(found.tile_rows, 32u);
  EXPECT_EQ(found.tile_cols, 64u);
  EXPECT_EQ(found.scale_rows(), 32u);
  EXPECT_EQ(found.scale_bytes(32, 64).begin, 2u);
  EXPECT_EQ(found.scale_bytes(32, 64).size, 4u);
  EXPECT_EQ(found.scale_bytes(96, 4).size, 2u);  // the last tile is not whole
  expect_error(
      ErrorKind::kBadInput, [&] { tensors.find(); }, "m.scale", "expected F8_E8M0 or F32 [1, 1]",
      "found F8_E8M0 [4, 2]", "the weight is F8_E4M3 [100, 96]");
}

TEST(ContainerTiles, AreReadFromTheConfigAtAnyDepth) {
  const Json size = {{"weight_block_size", {32, 64}}};
  EXPECT_EQ(tile_size(Json::object(), "c"), (TileSize{128, 128}));
  EXPECT_EQ(tile_size({{"quantization_config", {{"weight_block_size", nullptr}}}}, "c"), TileSize{});
  EXPECT_EQ(tile_size({{"quantization_config", size}}, "c"), (TileSize{32, 64}));
  EXPECT_EQ(tile_size({{"text_config", {{"quantization_config", size}}}}, "c"), (TileSize{32, 64}));
  expect_error(
      ErrorKind::kUnsupported,
      [&] {
        tile_size({{"quantization_config", {{"weight_block_size", {128, 128}}}},
                   {"text_config", {{"quantization_config", size}}}},
                  "c");
      },
      "c", "weight_block_size", "expected 128 x 128 everywhere",
      "found 32 x 64 in text_config.quantization_config");
  for (const char* bad : {"[128]", "[0, 128]", "[128, -1]", "[128, 1.5]", "128", "\"a\"", "[1, 2, 3]", "{}",
                          "[128, 1048577]", "[128, 18446744073709551615]"}) {
    const Json config = {{"quantization_config", {{"weight_block_size", Json::parse(bad)}}}};
    expect_error(
        ErrorKind::kBadInput, [&] { tile_size(config, "c"); }, "c",
        "'quantization_config.weight_block_size' is no tile size", "two integers from 1 to 1048576");
  }
}

// ---- what fits none ----

struct Misfit {
  const char* name;
  std::vector<std::tuple<const char*, Dtype, Shape>> tensors;
  ErrorKind kind;
  std::vector<std::string> parts;
};

class ContainerMisfits : public ::testing::TestWithParam<Misfit> {};

TEST_P(ContainerMisfits, AreRefusedByName) {
  Tensors tensors;
  for (const auto& [name, dtype, shape] : GetParam().tensors) tensors.add(name, dtype, shape);
  expect_error(
      GetParam().kind, [&] { tensors.find(); }, "f.safetensors");
  for (const std::string& part : GetParam().parts)
    expect_error(
        GetParam().kind, [&] { tensors.find(); }, part);
}

std::vector<Misfit> misfits() {
  const auto bad = ErrorKind::kBadInput, unsupported = ErrorKind::kUnsupported;
  return {
      {"double",
       {{"m.weight", Dtype::kF64, {4, 4}}},
       unsupported,
       {"'m.weight'", "dtype that no weight has", "found F64"}},
      {"integers", {{"m.weight", kI64, {4, 4}}}, unsupported, {"'m.weight'", "found I64"}},
      {"fp8_alone",
       {{"m.weight", kF8E4M3, {4, 4}}},
       bad,
       {"'m.weight'", "is F8_E4M3, and its scale is missing",
        "expected a tensor 'm.scale' or 'm.weight_scale_inv' or 'm.weight_scale'"}},
      {"nibbles_alone",
       {{"m.weight", kI8, {4, 16}}},
       bad,
       {"is I8, and its scale is missing", "expected a tensor 'm.scale'"}},
      {"another_scale",
       {{"m.weight", kI8, {4, 16}}, {"m.weight_scale", kF8E4M3, {4, 2}}},
       unsupported,
       {"'m.weight'", "expected a tensor 'm.scale', found m.weight_scale (F8_E4M3)"}},
      {"nvfp4_without_scale_2",
       {{"m.weight", kU8, {4, 16}}, {"m.weight_scale", kF8E4M3, {4, 2}}},
       unsupported,
       {"'m.weight'", "expected a tensor 'm.weight_scale_2'"}},
      {"scale_2_of_two_values",
       {{"m.weight", kU8, {4, 16}},
        {"m.weight_scale", kF8E4M3, {4, 2}},
        {"m.weight_scale_2", Dtype::kF32, {2}}},
       bad,
       {"'m.weight_scale_2'", "expected F32 of one value, found F32 [2]"}},
      {"scale_2_in_bf16",
       {{"m.weight", kU8, {4, 16}},
        {"m.weight_scale", kF8E4M3, {4, 2}},
        {"m.weight_scale_2", Dtype::kBF16, {}}},
       bad,
       {"'m.weight_scale_2'", "found BF16 []"}},
      {"short_blocks",
       {{"m.weight", kI8, {4, 16}}, {"m.scale", kF8E8M0, {3, 1}}},
       bad,
       {"'m.scale'", "expected U8 or F8_E8M0 [4, 1]", "found F8_E8M0 [3, 1]", "the weight is I8 [4, 16]"}},
      {"scale_of_another_dtype",
       {{"m.weight", kI8, {4, 16}}, {"m.scale", kF16, {4, 1}}},
       unsupported,
       {"'m.scale'", "expected U8 or F8_E8M0 [4, 1]", "found F16 [4, 1]"}},
      {"no_weight_scale_fits",
       {{"m.weight", kF8E4M3, {256, 64}}, {"m.weight_scale", Dtype::kF32, {3}}},
       bad,
       {"'m.weight_scale'",
        "expected F16 or BF16 or F32 of one value, F16 or BF16 or F32 [256, 1], F16 or BF16 or F32 [2, 1], "
        "U8 or F8_E8M0 [256, 2]",
        "found F32 [3]"}},
      {"stack",
       {{"m.weight", kF8E4M3, {2, 4, 4}}, {"m.weight_scale", Dtype::kF32, {}}},
       unsupported,
       {"'m.weight'", "is a quantized weight but no matrix", "found F8_E4M3 [2, 4, 4]"}},
      {"nothing",
       {{"m.weight", kF8E4M3, {0, 4}}, {"m.weight_scale", Dtype::kF32, {}}},
       unsupported,
       {"'m.weight'", "no matrix", "found F8_E4M3 [0, 4]"}},
      {"half_a_block",
       {{"m.weight", kU8, {4, 12}},
        {"m.weight_scale", kF8E4M3, {4, 1}},
        {"m.weight_scale_2", Dtype::kF32, {}}},
       bad,
       {"'m.weight'", "its columns are no whole blocks", "expected a multiple of 16, found 24"}},
      {"half_an_mx_block",
       {{"m.weight", kI8, {4, 24}}, {"m.scale", kF8E8M0, {4, 1}}},
       bad,
       {"'m.weight'", "expected a multiple of 32, found 48"}},
  };
}

INSTANTIATE_TEST_SUITE_P(Each, ContainerMisfits, ::testing::ValuesIn(misfits()),
                         [](const auto& misfit) { return std::string(misfit.param.name); });

TEST(Container, NoWeightIsNoLinear) {
  Tensors tensors;
  tensors.add("m.scale", kF8E8M0, {1, 1});
  tensors.add("m", Dtype::kBF16, {4, 4});
  EXPECT_FALSE(tensors.find());
}

TEST(Container, InputScalesBelongToTheLinear) {
  Tensors tensors;
  tensors.add("m.weight", kF8E4M3, {4, 4});
  tensors.add("m.weight_scale", Dtype::kF32, {});
  tensors.add("m.input_scale", Dtype::kF32, {});
  EXPECT_EQ(tensors.find().value().input_scale, &tensors.at("m.input_scale").tensor);
}

TEST(Container, PlainWeightsOfAnyRankAreRowsOfTheLastDimension) {
  Tensors tensors;
  tensors.add("m.weight", Dtype::kBF16, {4, 3, 2});
  EXPECT_EQ(tensors.find().value().format.rows, 12u);
  EXPECT_EQ(tensors.find().value().format.cols, 2u);
  tensors.add("m.weight", Dtype::kF32, {7});
  EXPECT_EQ(tensors.find().value().format.rows, 1u);
  EXPECT_EQ(tensors.find().value().format.cols, 7u);
}

// ---- in a checkpoint ----

TEST(ContainerSource, IsTheCheckpointsTensors) {
  std::vector<Tensor> tensors = {{.name = "a.weight", .dtype = Dtype::kBF16, .shape = {2, 3}},
                                 {.name = "norm", .dtype = Dtype::kF32, .shape = {5}},
                                 {.name = "ids", .dtype = kI64, .shape = {2}},
                                 {.name = "b.weight", .dtype = kI8, .shape = {4, 16}},
                                 {.name = "b.scale", .dtype = kF8E8M0, .shape = {4, 1}}};
  uint64_t offset = 0;
  for (Tensor& tensor : tensors) {
    tensor.size_bytes = *stored_bytes(tensor.dtype, *element_count(tensor.shape));
    tensor.offset = offset;
    offset += tensor.size_bytes;
  }
  const testing::TemporaryFolder folder;
  write_text_durably(system_files(), folder.path() / "model.safetensors",
                     write_safetensors_header(tensors, {}) + std::string(offset, '\0'));
  write_text_durably(system_files(), folder.path() / "config.json", "{}");
  const Checkpoint source = Checkpoint::open(folder.path(), system_files());
  const auto index = [&](const char* name) {
    return static_cast<uint32_t>(source.find(name) - source.tensors().data());
  };

  const LinearSource packed = source_of(source, find_linear(source, "b", {}).value());
  EXPECT_EQ(packed.weight, (Slice{index("b.weight"), 0, 64}));
  EXPECT_EQ(packed.scale, (Slice{index("b.scale"), 0, 4}));
  EXPECT_FALSE(packed.scale_2.is_there());
  EXPECT_EQ(packed.size_bytes(), 68u);
  EXPECT_EQ(packed.rows_of(packed.weight, 1, 2), (Slice{index("b.weight"), 16, 32}));
  EXPECT_EQ(packed.rows_of(packed.scale, 3, 1), (Slice{index("b.scale"), 3, 1}));
  EXPECT_FALSE(find_linear(source, "norm", {}));

  const LinearSource norm = plain_source(source, index("norm"));
  EXPECT_EQ(norm.format.stored, StoredFormat::kF32);
  EXPECT_EQ(norm.format.rows, 1u);
  EXPECT_EQ(norm.format.cols, 5u);
  EXPECT_EQ(norm.weight, (Slice{index("norm"), 0, 20}));
  EXPECT_EQ(plain_source(source, index("a.weight")).format.stored, StoredFormat::kBf16);
  expect_error(
      ErrorKind::kUnsupported, [&] { plain_source(source, index("ids")); }, "model.safetensors", "ids",
      "expected BF16, F16 or F32", "found I64");
}

}  // namespace
}  // namespace nibblecast
