#include "checkpoint/tensor.h"

#include "testing.h"

namespace nibblecast {
namespace {

TEST(Dtype, NamesReadBack) {
  for (int code = 0; code <= static_cast<int>(Dtype::kU64); ++code) {
    const Dtype dtype = static_cast<Dtype>(code);
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype) << dtype_name(dtype);
  }
  EXPECT_EQ(parse_dtype("F6_E2M3"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
  EXPECT_EQ(dtype_bytes(*parse_dtype("F8_E8M0")), 1u);
  EXPECT_EQ(dtype_bytes(*parse_dtype("BF16")), 2u);
  EXPECT_EQ(dtype_bytes(*parse_dtype("I64")), 8u);
}

TEST(Dtype, BytesOfARow) {
  EXPECT_EQ(stored_bytes(Dtype::kBF16, 3), 6u);
  EXPECT_EQ(stored_bytes(Dtype::kF4, 6), 3u);
  EXPECT_EQ(stored_bytes(Dtype::kF4, 3), std::nullopt);
  EXPECT_EQ(stored_bytes(Dtype::kF64, uint64_t{1} << 60), std::nullopt);
}

TEST(Shape, TextAndElementCount) {
  EXPECT_EQ(shape_text({}), "[]");
  EXPECT_EQ(shape_text({256, 128}), "[256, 128]");
  EXPECT_EQ(element_count({}), 1u);
  EXPECT_EQ(element_count({3, 0, 5}), 0u);
  EXPECT_EQ(element_count({0x7fffffffffffffff}), 0x7fffffffffffffffu);
  EXPECT_EQ(element_count({0x8000000000000000}), std::nullopt);
  EXPECT_EQ(element_count({uint64_t{1} << 32, uint64_t{1} << 31}), std::nullopt);
  EXPECT_EQ(element_count({uint64_t{1} << 31, uint64_t{1} << 31}), uint64_t{1} << 62);
}

}  // namespace
}  // namespace nibblecast
