#include "pipeline/verify_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace nibblecast {
namespace {

// One row with blocks of every E8M0 byte up to k_max's; every nibble stands in every block, in another order
// each.
struct Matrix {
  static constexpr size_t kBlocks = 255;
  std::vector<uint8_t> codes = std::vector<uint8_t>(kBlocks * 16), scales = std::vector<uint8_t>(kBlocks);
  std::vector<uint8_t> out_codes = codes, out_scales = std::vector<uint8_t>(kBlocks * 2);
  int k_max;
  NegativeZero negative_zero;

  Matrix(int k, NegativeZero zero) : k_max(k), negative_zero(zero) {
    for (size_t block = 0; block < kBlocks; ++block) {
      scales[block] = static_cast<uint8_t>(block % static_cast<size_t>(k_max + 128));
      for (size_t byte = 0; byte < 16; ++byte) {
        codes[block * 16 + byte] = static_cast<uint8_t>((byte + block) % 16 | (byte * 7 + block) % 16 << 4);
      }
    }
    cast_mxfp4_to_nvfp4_ref(source(), 0, 1, k_max, negative_zero, out_codes.data(), out_scales.data());
  }

  Mxfp4View source() const { return {codes.data(), scales.data(), 1, kBlocks * 32}; }
  BlockCounts check() const {
    return BlockChecker({.source = source(),
                         .codes = out_codes.data(),
                         .block_scales = out_scales.data(),
                         .scale_2 = std::ldexp(1.0f, k_max - 8),
                         .k_max = k_max,
                         .negative_zero = negative_zero})
        .check(0, 1);
  }
  uint64_t faults() const {
    uint64_t sum = 0;
    for (const FaultCount& fault : check().faults) sum += fault.blocks;
    return sum;
  }
};

class BlockCheckerTest : public ::testing::TestWithParam<NegativeZero> {};
INSTANTIATE_TEST_SUITE_P(Policies, BlockCheckerTest,
                         ::testing::Values(NegativeZero::kKeep, NegativeZero::kModelOpt));

TEST_P(BlockCheckerTest, AcceptsWhatTheReferenceMakes) {
  for (const int k_max : {127, 0, -30, -109, -110}) {
    const Matrix matrix(k_max, GetParam());
    const BlockCounts counts = matrix.check();
    EXPECT_EQ(matrix.faults(), 0u) << k_max;
    EXPECT_EQ(counts.blocks, Matrix::kBlocks);
    uint64_t outside = 0;
    for (const uint8_t scale : matrix.scales) outside += !in_cast_window(scale, k_max);
    EXPECT_EQ(counts.requantized, outside) << k_max;
    // At -110, byte 0 has the same scale on both sides: it counts as outside, and loses nothing.
    EXPECT_EQ(counts.identical, counts.blocks - (k_max == -110 ? 0 : outside)) << k_max;
    EXPECT_EQ(counts.largest_error > 0, k_max != -110) << k_max;
  }
}

TEST_P(BlockCheckerTest, FindsEveryFlippedBit) {
  Matrix matrix(-100, GetParam());  // bytes 0 to 27
  ASSERT_EQ(matrix.faults(), 0u);
  const auto flip_all = [&](std::vector<uint8_t>& bytes) {
    for (size_t bit = 0; bit < 28 * bytes.size() / Matrix::kBlocks * 8; ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      EXPECT_EQ(matrix.faults(), 1u) << "byte " << bit / 8 << " bit " << bit % 8;
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  };
  flip_all(matrix.out_codes);
  flip_all(matrix.out_scales);
}

TEST(BlockChecker, SourceNanIsNamed) {
  Matrix matrix(127, NegativeZero::kKeep);
  matrix.scales[9] = 255;
  const BlockCounts counts = matrix.check();
  EXPECT_EQ(counts[BlockFault::kSourceScaleNan].blocks, 1u);
  EXPECT_EQ(counts[BlockFault::kSourceScaleNan].col, 9u * 32);
}

}  // namespace
}  // namespace nibblecast
