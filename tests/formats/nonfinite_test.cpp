#include "formats/nonfinite.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace nibblecast {
namespace {

// Every bit pattern of 16 bits, in which every one of 8 bits comes too.
std::vector<std::byte> all_patterns() {
  std::vector<std::byte> bytes(1 << 17);
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    const uint16_t value = static_cast<uint16_t>(bits);
    std::memcpy(bytes.data() + 2 * bits, &value, sizeof value);
  }
  return bytes;
}

constexpr Dtype kFloats[] = {Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kF8E8M0, Dtype::kF16,
                             Dtype::kBF16,   Dtype::kF32,    Dtype::kF64};

TEST(NonFinite, EveryPatternIsWhatTheDefinitionSays) {
  const std::vector<std::byte> bytes = all_patterns();
  for (const Dtype dtype : kFloats)
    EXPECT_EQ(count_nonfinite(dtype, bytes), count_nonfinite_ref(dtype, bytes)) << dtype_name(dtype);
}

TEST(NonFinite, CountsAreThoseOfTheFormats) {
  const std::vector<std::byte> bytes = all_patterns();
  EXPECT_EQ(count_nonfinite(Dtype::kF16, bytes).count, 2048u);  // both signs, all of the mantissa
  EXPECT_EQ(count_nonfinite(Dtype::kBF16, bytes).count, 256u);
  EXPECT_EQ(count_nonfinite(Dtype::kF8E4M3, bytes).count, 2 * 512u);
  EXPECT_EQ(count_nonfinite(Dtype::kF8E5M2, bytes).count, 8 * 512u);
  EXPECT_EQ(count_nonfinite(Dtype::kF8E8M0, bytes).count, 512u);
  for (const Dtype dtype : {Dtype::kBool, Dtype::kU8, Dtype::kI8, Dtype::kI64, Dtype::kU32})
    EXPECT_EQ(count_nonfinite(dtype, bytes).count, 0u) << dtype_name(dtype);
}

// Around the sizes in which it goes on, and aligned to nothing.
TEST(NonFinite, OneIsFoundInEveryPlace) {
  std::mt19937 random(1);
  for (const Dtype dtype : kFloats) {
    const size_t size = dtype_bytes(dtype);
    for (const size_t count : {0u, 1u, 7u, 4095u, 4096u, 4097u, 9000u}) {
      std::vector<std::byte> held(count * size + 1, std::byte{0x11});
      const std::span<std::byte> bytes = std::span(held).subspan(1);
      EXPECT_EQ(count_nonfinite(dtype, bytes).count, 0u);
      if (count == 0) continue;
      for (const size_t place : {size_t{0}, count / 2, count - 1, random() % count}) {
        std::memset(bytes.data() + place * size, 0xff, size);
        EXPECT_EQ(count_nonfinite(dtype, bytes), (NonFinite{1, place * size})) << dtype_name(dtype);
        std::memset(bytes.data() + place * size, 0x11, size);
      }
    }
  }
}

TEST(NonFinite, InfinityCountsAndTheLargestNumberDoesNot) {
  const float values[] = {3.4028234e38f, -3.4028234e38f, INFINITY, -INFINITY, NAN};
  EXPECT_EQ(count_nonfinite(Dtype::kF32, std::as_bytes(std::span(values))), (NonFinite{3, 8}));
  const std::byte e4m3[] = {std::byte{0x7e}, std::byte{0xfe}, std::byte{0xff}};  // 448, -448, NaN
  EXPECT_EQ(count_nonfinite(Dtype::kF8E4M3, e4m3), (NonFinite{1, 2}));
}

TEST(NonFinite, PartsAddUp) {
  NonFinite all;
  all.add({0, 0}, 0);
  all.add({2, 5}, 100);
  all.add({1, 3}, 200);
  EXPECT_EQ(all, (NonFinite{3, 105}));
}

}  // namespace
}  // namespace nibblecast
