#include "pipeline/evaluation_statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibblecast {
namespace {

TEST(RowMean, IsOverTokensAndItsErrorOverRows) {
  const double sums[] = {10, 30, 0, 26};
  const uint64_t tokens[] = {10, 20, 0, 10};
  const RowMean mean = row_mean(sums, tokens);
  EXPECT_DOUBLE_EQ(mean.mean, 66.0 / 40);
  // Off the mean by -6.5, -3 and 9.5; a row without tokens is none.
  EXPECT_DOUBLE_EQ(mean.error, std::sqrt(3.0 / 2 * (6.5 * 6.5 + 3 * 3 + 9.5 * 9.5)) / 40);
}

TEST(RowMean, OfEqualRowsHasNoError) {
  const double sums[] = {5, 5};
  const uint64_t tokens[] = {4, 4};
  EXPECT_EQ(row_mean(sums, tokens).error, 0);
}

TEST(RowMean, NeedsTokensAndMoreThanOneRow) {
  const double sums[] = {5, 0};
  const uint64_t tokens[] = {4, 0}, none[] = {0, 0};
  EXPECT_TRUE(std::isnan(row_mean(sums, tokens).error));
  EXPECT_TRUE(std::isnan(row_mean(sums, none).mean));
}

TEST(Percentile, LiesBetweenTwoValues) {
  const double values[] = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(percentile(values, 0.9), 4 + 0.7 * 4);  // numpy.percentile([1, 2, 4, 8], 90)
  EXPECT_DOUBLE_EQ(percentile(values, 1), 8);
  EXPECT_TRUE(std::isnan(percentile({}, 0.5)));
}

TEST(DivergenceOfTokens, GathersThemAll) {
  const std::vector<std::vector<TokenDivergence>> rows = {
      {{.kl = 1, .logprob_delta = -3, .same_top1 = true, .top1_in_top5 = true},
       {.kl = 3, .logprob_delta = 1}},
      {{.kl = 5, .logprob_delta = 2, .same_top1 = false, .top1_in_top5 = true}},
      {}};
  const Divergence all = divergence_of(rows);
  EXPECT_DOUBLE_EQ(all.kl_mean, 3);
  EXPECT_DOUBLE_EQ(all.kl_stderr, std::sqrt(2.0 * (4 + 4)) / 3);
  EXPECT_DOUBLE_EQ(all.kl_median, 3);
  EXPECT_DOUBLE_EQ(all.kl_max, 5);
  EXPECT_DOUBLE_EQ(all.top1_agreement, 1.0 / 3);
  EXPECT_DOUBLE_EQ(all.top5_agreement, 2.0 / 3);
  EXPECT_DOUBLE_EQ(all.logprob_delta_mean, 0);
  EXPECT_DOUBLE_EQ(all.logprob_delta_rms, std::sqrt(14.0 / 3));
}

TEST(DivergenceOfTokens, ANanShowsEverywhere) {
  const std::vector<std::vector<TokenDivergence>> rows = {{{.kl = NAN, .logprob_delta = NAN}, {.kl = 1}}};
  const Divergence all = divergence_of(rows);
  for (const double value :
       {all.kl_mean, all.kl_median, all.kl_max, all.logprob_delta_rms, all.logprob_delta_p1})
    EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace nibblecast
