#include "ops/error_sums.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {
namespace {

TEST(ErrorSums, AreThoseOfTheDefinition) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (const size_t width : {1u, 7u, 8u, 100u}) {
    std::vector<float> a(3 * width), b(3 * width);
    for (float& value : a) value = normal(generator);
    for (float& value : b) value = normal(generator);
    std::vector<ErrorSums> sums(3);
    token_errors(a.data(), b.data(), 3, width, sums.data());
    double a2 = 0, d2 = 0, ab = 0, b2 = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double x = a[i], y = b[i];
      a2 += x * x, b2 += y * y, ab += x * y, d2 += (x - y) * (x - y);
    }
    const ErrorSums all = sum_of(sums);
    // 300 terms in another order.
    EXPECT_NEAR(all.error(), std::sqrt(d2 / a2), 1e-13) << width;
    EXPECT_NEAR(all.cosine(), ab / std::sqrt(a2 * b2), 1e-13) << width;
  }
}

TEST(ErrorSums, OfEqualValuesAreNoError) {
  const std::vector<bf16> a(100, from_float<bf16>(1.5f));
  std::vector<ErrorSums> sums(2);
  token_errors(a.data(), a.data(), 2, 50, sums.data());
  EXPECT_EQ(sum_of(sums).error(), 0);
  EXPECT_EQ(sum_of(sums).cosine(), 1);
}

TEST(ErrorSums, ANanIsNoNumber) {
  std::vector<float> a(20, 1.0f), b(20, 2.0f);
  b[13] = std::numeric_limits<float>::quiet_NaN();
  std::vector<ErrorSums> sums(1);
  token_errors(a.data(), b.data(), 1, 20, sums.data());
  EXPECT_TRUE(std::isnan(sums[0].error()));
}

}  // namespace
}  // namespace nibblecast
