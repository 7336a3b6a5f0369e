#include "ops/block_amaxes.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibblecast {
namespace {

// A block whose largest magnitude is `value`.
template <class T>
void add_block(BlockAmaxes& amaxes, float value, size_t times = 1) {
  std::vector<T> x(16 * times, from_float<T>(value / 2));
  for (size_t block = 0; block < times; ++block) x[block * 16 + 7] = from_float<T>(-value);
  amaxes.add(x.data(), 1, x.size());
}

TEST(BlockAmaxes, PercentileIsTheLeastMagnitudeThatSoManyBlocksDoNotExceed) {
  BlockAmaxes amaxes;
  EXPECT_EQ(amaxes.percentile(0.5), 0.0f);
  add_block<bf16>(amaxes, 1, 97);
  add_block<bf16>(amaxes, 3, 2);
  add_block<bf16>(amaxes, 100);
  EXPECT_EQ(amaxes.blocks(), 100u);
  EXPECT_EQ(amaxes.percentile(0.5), 1.0f);
  EXPECT_EQ(amaxes.percentile(0.97), 1.0f);
  EXPECT_EQ(amaxes.percentile(0.98), 3.0f);
  EXPECT_EQ(amaxes.percentile(0.99), 3.0f);
  EXPECT_EQ(amaxes.percentile(1), 100.0f);
}

TEST(BlockAmaxes, BlocksOfZerosDoNotCount) {
  BlockAmaxes amaxes;
  add_block<float>(amaxes, 0, 1000);
  EXPECT_EQ(amaxes.percentile(0.01), 0.0f);
  add_block<float>(amaxes, 2);
  EXPECT_EQ(amaxes.percentile(0.01), 2.0f);
  EXPECT_EQ(amaxes.blocks(), 1001u);
}

TEST(BlockAmaxes, MagnitudesInFp32AreRoundedUp) {
  BlockAmaxes amaxes;
  add_block<float>(amaxes, 1.0001f);
  EXPECT_EQ(amaxes.percentile(1), 1.0078125f);
}

TEST(BlockAmaxes, RowsMayComeInParts) {
  std::vector<float> x(48 * 5);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i / 16);
  BlockAmaxes whole, parts;
  whole.add(x.data(), 5, 48);
  for (size_t row = 0; row < 5; ++row) parts.add(x.data() + row * 48, 1, 48);
  for (const double share : {0.1, 0.5, 0.9, 1.0}) EXPECT_EQ(whole.percentile(share), parts.percentile(share));
  EXPECT_EQ(whole.percentile(1), 14.0f);
}

}  // namespace
}  // namespace nibblecast
