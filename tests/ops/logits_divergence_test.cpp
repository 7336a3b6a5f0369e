#include "ops/logits_divergence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "ops/exp.h"

namespace nibblecast {
namespace {

std::vector<float> random_logits(size_t count, float size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

template <class Add>
LogitsDivergence divergence(const std::vector<float>& a, const std::vector<float>& b, size_t part,
                            const Add& add) {
  LogitsDivergence state;
  for (size_t first = 0; first < a.size(); first += part)
    add(a.data() + first, b.data() + first, std::min(part, a.size() - first), first, state);
  return state;
}

// From the probabilities themselves.
double kl_of_probabilities(const std::vector<float>& a, const std::vector<float>& b) {
  double sum_a = 0, sum_b = 0, kl = 0;
  for (const float x : a) sum_a += std::exp(double{x});
  for (const float x : b) sum_b += std::exp(double{x});
  for (size_t i = 0; i < a.size(); ++i) {
    const double p = std::exp(double{a[i]}) / sum_a, q = std::exp(double{b[i]}) / sum_b;
    kl += p * std::log(p / q);
  }
  return kl;
}

TEST(LogitsDivergence, IsThatOfTheProbabilitiesInPartsOfEverySize) {
  for (const float size : {0.1f, 3.0f, 20.0f}) {
    const std::vector<float> a = random_logits(1000, size, 1), b = random_logits(1000, size, 2);
    const double expected = kl_of_probabilities(a, b);
    for (const size_t part : {1u, 7u, 8u, 9u, 333u, 1000u}) {
      // Sums of 1,000 terms in another order, over exp() within 1e-15.
      EXPECT_NEAR(kl_divergence(divergence(a, b, part, add_logits_pair)), expected, 1e-12 * (1 + expected))
          << part;
      EXPECT_NEAR(kl_divergence(divergence(a, b, part, add_logits_pair_ref)), expected,
                  1e-12 * (1 + expected));
    }
  }
}

TEST(LogitsDivergence, OfEqualLogitsIsZeroExactly) {
  const std::vector<float> a = random_logits(5000, 8, 3);
  for (const size_t part : {1u, 17u, 1024u})
    EXPECT_EQ(kl_divergence(divergence(a, a, part, add_logits_pair)), 0.0) << part;
}

// A shift of all logits changes no probability.
TEST(LogitsDivergence, KeepsSmallDifferences) {
  std::vector<float> a = random_logits(4096, 4, 4), b = a;
  b[17] += 0x1p-10f;
  const double expected = kl_of_probabilities(a, b);
  EXPECT_NEAR(kl_divergence(divergence(a, b, 1024, add_logits_pair)), expected, 1e-14);
}

TEST(LogitsDivergence, LargestLogitsAreThoseOfTheWholeVocabularyAndTiesGoToTheLower) {
  std::vector<float> a(100, 0), b(100, 0);
  a[60] = a[70] = 5;
  b[3] = 9, b[50] = 8, b[99] = 7, b[98] = 7, b[60] = 6;
  const LogitsDivergence state = divergence(a, b, 9, add_logits_pair);
  EXPECT_EQ(state.top_a.token, 60);
  std::vector<uint64_t> tokens;
  for (const auto& top : state.top_b) tokens.push_back(top.token);
  EXPECT_EQ(tokens, (std::vector<uint64_t>{3, 50, 98, 99, 60}));
  EXPECT_FALSE(same_top1(state));
  EXPECT_TRUE(top1_in_top5(state));
  b[61] = 6.5f;
  EXPECT_FALSE(top1_in_top5(divergence(a, b, 9, add_logits_pair)));
}

TEST(LogitsDivergence, WhatIsNotFiniteGivesNan) {
  for (const float damaged : {NAN, INFINITY}) {
    for (const size_t place : {0u, 5u, 99u}) {
      std::vector<float> a = random_logits(100, 1, 5), b = a;
      b[place] = damaged;
      EXPECT_TRUE(std::isnan(kl_divergence(divergence(a, b, 30, add_logits_pair))))
          << damaged << " " << place;
      EXPECT_TRUE(std::isnan(kl_divergence(divergence(b, a, 30, add_logits_pair))))
          << damaged << " " << place;
    }
  }
}

TEST(Exp, InDoubleIsWithinItsBound) {
  for (double x = -700; x <= 700; x += 0.37) EXPECT_LE(std::fabs(exp_f64(x) / std::exp(x) - 1), 1e-15) << x;
  EXPECT_EQ(exp_f64(0), 1);
  EXPECT_EQ(exp_f64(-INFINITY), 0);
  EXPECT_TRUE(std::isnan(exp_f64(NAN)));
}

}  // namespace
}  // namespace nibblecast
