// What an evaluation computes on a device, against the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cuda_testing.h"
#include "ops/error_sums_cuda.h"
#include "ops/logits_divergence_cuda.h"

namespace nibblecast {
namespace {

using testing::downloaded;
using testing::uploaded;

std::vector<float> random_floats(size_t count, float size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

struct Pair {
  size_t tokens = 0, vocabulary = 0;
  std::vector<float> a = {}, b = {};  // [tokens, vocabulary]
};

// In parts of the vocabulary, b with gaps between its tokens.
std::vector<LogitsDivergence> on_device(const Pair& pair, size_t part) {
  const DeviceArray<LogitsDivergence> states = uploaded(std::vector<LogitsDivergence>(pair.tokens));
  CudaStream stream;
  for (size_t first = 0; first < pair.vocabulary; first += part) {
    const size_t count = std::min(part, pair.vocabulary - first), stride = count + 3;
    std::vector<float> a(pair.tokens * count), b(pair.tokens * stride, NAN);
    for (size_t token = 0; token < pair.tokens; ++token) {
      for (size_t i = 0; i < count; ++i) {
        a[token * count + i] = pair.a[token * pair.vocabulary + first + i];
        b[token * stride + i] = pair.b[token * pair.vocabulary + first + i];
      }
    }
    const DeviceArray<float> to_a = uploaded(a), to_b = uploaded(b);
    add_logits_pairs_cuda(stream, to_a.data(), to_b.data(), stride, pair.tokens, count, first, states.data());
    stream.synchronize();
  }
  return downloaded(states);
}

std::vector<LogitsDivergence> on_host(const Pair& pair) {
  std::vector<LogitsDivergence> states(pair.tokens);
  for (size_t token = 0; token < pair.tokens; ++token)
    add_logits_pair_ref(&pair.a[token * pair.vocabulary], &pair.b[token * pair.vocabulary], pair.vocabulary,
                        0, states[token]);
  return states;
}

TEST(LogitsDivergenceCuda, IsTheReferencesInPartsOfEverySize) {
  SKIP_WITHOUT_CUDA();
  for (const float size : {0.1f, 3.0f, 20.0f}) {
    Pair pair{.tokens = 5, .vocabulary = 3000};
    pair.a = random_floats(pair.tokens * pair.vocabulary, size, 1);
    pair.b = random_floats(pair.tokens * pair.vocabulary, size, 2);
    // Equal logits: the first of them is the larger one.
    pair.b[10] = pair.b[2000] = pair.b[17] = 100;
    const std::vector<LogitsDivergence> expected = on_host(pair);
    for (const size_t part : {7u, 128u, 1000u, 1024u, 3000u}) {
      const std::vector<LogitsDivergence> found = on_device(pair, part);
      for (size_t token = 0; token < pair.tokens; ++token) {
        const double kl = kl_divergence(expected[token]);
        // Sums of 3,000 terms in another order, over an exp() within 1 ulp.
        EXPECT_NEAR(kl_divergence(found[token]), kl, 1e-12 * (1 + kl)) << part;
        EXPECT_EQ(found[token].top_a.token, expected[token].top_a.token);
        for (size_t at = 0; at < 5; ++at)
          EXPECT_EQ(found[token].top_b[at].token, expected[token].top_b[at].token) << at << " of " << part;
      }
    }
  }
}

TEST(LogitsDivergenceCuda, OfEqualLogitsIsZeroExactly) {
  SKIP_WITHOUT_CUDA();
  Pair pair{.tokens = 3, .vocabulary = 5000};
  pair.a = pair.b = random_floats(pair.tokens * pair.vocabulary, 8, 3);
  for (const LogitsDivergence& state : on_device(pair, 1024)) {
    EXPECT_EQ(kl_divergence(state), 0);
    EXPECT_TRUE(same_top1(state));
  }
}

TEST(LogitsDivergenceCuda, WhatIsNoNumberGivesNone) {
  SKIP_WITHOUT_CUDA();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Pair pair{.tokens = 2, .vocabulary = 2000};
    pair.a = pair.b = random_floats(pair.tokens * pair.vocabulary, 1, 4);
    pair.b[1500] = bad;
    const std::vector<LogitsDivergence> found = on_device(pair, 1024);
    EXPECT_TRUE(std::isnan(kl_divergence(found[0]))) << bad;
    EXPECT_EQ(kl_divergence(found[1]), 0) << bad;
  }
}

template <class T>
void errors_are_those_of_the_host(size_t width) {
  constexpr size_t kTokens = 9;
  std::vector<T> a, b;
  for (const float value : random_floats(kTokens * width, 2, 5)) a.push_back(from_float<T>(value));
  for (const float value : random_floats(kTokens * width, 2, 6)) b.push_back(from_float<T>(value));
  std::vector<ErrorSums> expected(kTokens);
  token_errors(a.data(), b.data(), kTokens, width, expected.data());
  const DeviceArray<T> to_a = uploaded(a), to_b = uploaded(b);
  const DeviceArray<ErrorSums> sums(kTokens);
  CudaStream stream;
  token_errors_cuda(stream, to_a.data(), to_b.data(), kTokens, width, sums.data());
  stream.synchronize();
  const std::vector<ErrorSums> found = downloaded(sums);
  for (size_t token = 0; token < kTokens; ++token) {
    // Sums of at most 3,000 terms in another order.
    EXPECT_NEAR(found[token].error(), expected[token].error(), 1e-12) << width;
    EXPECT_NEAR(found[token].cosine(), expected[token].cosine(), 1e-12) << width;
  }
}

TEST(ErrorSumsCuda, AreTheHosts) {
  SKIP_WITHOUT_CUDA();
  for (const size_t width : {1u, 255u, 256u, 3000u}) {
    errors_are_those_of_the_host<float>(width);
    errors_are_those_of_the_host<bf16>(width);
  }
}

}  // namespace
}  // namespace nibblecast
