#include "ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace nibblecast {
namespace {

std::vector<float> random_logits(size_t count, float size) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

template <class Add>
double loss(const std::vector<float>& logits, size_t part, int64_t target, const Add& add) {
  CrossEntropy state;
  for (size_t first = 0; first < logits.size(); first += part)
    add(logits.data() + first, std::min(part, logits.size() - first), first, target, state);
  return value(state);
}

TEST(CrossEntropy, MatchesItsDefinitionInPartsOfEverySize) {
  for (const float size : {0.1f, 3.0f, 40.0f}) {
    const std::vector<float> logits = random_logits(1000, size);
    const double expected = loss(logits, logits.size(), 500, add_logits_ref);
    for (const size_t part : {1u, 15u, 16u, 17u, 333u, 1000u})
      EXPECT_NEAR(loss(logits, part, 500, add_logits), expected, 1e-6 * (1 + expected)) << part;
  }
}

TEST(CrossEntropy, OfEqualLogitsIsTheLogarithmOfTheirNumber) {
  EXPECT_NEAR(loss(std::vector<float>(4096, 7.5f), 1024, 4095, add_logits), std::log(4096.0), 1e-6);
}

TEST(CrossEntropy, OneLogitFarAboveTheOthersDecides) {
  std::vector<float> logits(100, -200.0f);
  logits[3] = 300.0f;
  EXPECT_NEAR(loss(logits, 10, 3, add_logits), 0, 1e-12);
  EXPECT_NEAR(loss(logits, 10, 4, add_logits), 500, 1e-9);
}

TEST(CrossEntropy, WhatIsNotFiniteGivesNan) {
  for (const float damaged : {NAN, INFINITY}) {
    for (const size_t place : {0u, 5u, 99u}) {
      std::vector<float> logits = random_logits(100, 1);
      logits[place] = damaged;
      EXPECT_TRUE(std::isnan(loss(logits, 30, 50, add_logits))) << damaged << " " << place;
    }
  }
}

TEST(CrossEntropy, ATokenThatPredictsNothingStaysAsItIs) {
  const std::vector<float> logits = random_logits(10, 1);
  CrossEntropy state;
  add_logits(logits.data(), logits.size(), 0, -1, state);
  EXPECT_EQ(state.sum, 0);
}

}  // namespace
}  // namespace nibblecast
