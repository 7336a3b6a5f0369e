#include "ops/second_moments.h"

#include <gtest/gtest.h>

#include <random>

#include "formats/isa_test.h"

namespace nibblecast {
namespace {

class SecondMomentsTest : public testing::IsaTest {};

template <class T>
void expect_sums_in_order() {
  constexpr size_t kRows = 37, kWidth = 777;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<T> x;
  for (size_t i = 0; i < kRows * kWidth; ++i)
    x.push_back(from_float<T>(normal(random) * (i % kWidth == 5 ? 1e4f : 1)));
  std::vector<float> expected;
  for (size_t col = 0; col < kWidth; ++col) {
    double sum = 0;
    for (size_t row = 0; row < kRows; ++row) {
      const double value = to_float(x[row * kWidth + col]);
      sum += value * value;
    }
    expected.push_back(static_cast<float>(sum / kRows));
  }
  SecondMoments whole, pieces;
  whole.add(x.data(), kRows, kWidth);
  for (size_t row = 0, count; row < kRows; row += count) {
    count = std::min<size_t>(5, kRows - row);
    pieces.add(x.data() + row * kWidth, count, kWidth);
  }
  EXPECT_EQ(whole.means(), expected);
  EXPECT_EQ(pieces.means(), expected);
  EXPECT_EQ(pieces.tokens(), kRows);
}

TEST_P(SecondMomentsTest, AreSumsInTheOrderOfTokensHoweverTheyCome) {
  expect_sums_in_order<float>();
  expect_sums_in_order<bf16>();
}

// As the groups of a grouped linear's input come, one after the other.
TEST_P(SecondMomentsTest, ChannelsMayComeInParts) {
  const float first[] = {1, 2, 3, 4}, second[] = {5, 6};
  SecondMoments moments;
  moments.add(first, 2, 2);
  moments.add(second, 2, 1, 2);
  EXPECT_EQ(moments.means(), (std::vector<float>{5, 10, 30.5f}));
  EXPECT_EQ(moments.tokens(), 2u);
  EXPECT_TRUE(SecondMoments().means().empty());
}

INSTANTIATE_FOR_EVERY_ISA(SecondMomentsTest);

}  // namespace
}  // namespace nibblecast
