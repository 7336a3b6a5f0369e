#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "ops/indexer.h"

namespace nibblecast {
namespace {

template <class T>
std::vector<T> random_values(size_t count, unsigned seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(generator));
  return values;
}

template <class T>
class Attention : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(Attention, Types);

// Outputs are weighted means of keys of size about 3 at most. float: a few FP32 units of the sums. bf16: p
// and the result are rounded, each by 2^-9 of its size.
template <class T>
constexpr float kTolerance = sizeof(T) == 2 ? 3 * 3 * 0x1p-9f : 2e-5f;

template <class T>
void expect_reference(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads) {
  const auto sinks = random_values<float>(heads, 20);
  auto found = random_values<T>(queries * heads * keys.head_dim, 21, 2), expected = found;
  attend(keys, first, queries, heads, sinks.data(), found.data());
  attend_ref(keys, first, queries, heads, sinks.data(), expected.data());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(std::abs(to_float(found[i]) - to_float(expected[i])) <= kTolerance<T>)
        << i << " of queries " << first << " + " << queries << ": " << to_float(found[i]) << " for "
        << to_float(expected[i]);
  }
}

TYPED_TEST(Attention, MatchesReference) {
  const size_t width = 40, length = 150;
  const auto raw = random_values<TypeParam>(length * width, 1),
             entries = random_values<TypeParam>(50 * width, 2);
  for (const size_t ratio : {0, 4, 128}) {
    for (const size_t window : {1, 16, 64, 200}) {
      const AttentionKeys<TypeParam> keys{.head_dim = width,
                                          .raw = raw.data(),
                                          .length = length,
                                          .window = window,
                                          .entries = ratio == 0 ? nullptr : entries.data(),
                                          .entry_count = ratio == 0 ? 0 : length / ratio,
                                          .ratio = ratio};
      for (const auto& [first, queries] :
           {std::pair<size_t, size_t>(0, 1), {0, 20}, {5, 3}, {60, 20}, {130, 20}}) {
        expect_reference(keys, first, queries, 9);  // 9 heads: 180 rows, two tiles
      }
    }
  }
}

TYPED_TEST(Attention, SeesOnlyChosenEntries) {
  const size_t width = 16, length = 300, words = 2;
  const auto raw = random_values<TypeParam>(length * width, 3),
             entries = random_values<TypeParam>(75 * width, 4);
  std::mt19937_64 generator(5);
  std::vector<uint64_t> chosen(length * words);
  for (uint64_t& word : chosen) word = generator();
  const AttentionKeys<TypeParam> keys{.head_dim = width,
                                      .raw = raw.data(),
                                      .length = length,
                                      .window = 8,
                                      .entries = entries.data(),
                                      .entry_count = 75,
                                      .ratio = 4,
                                      .chosen = chosen.data(),
                                      .chosen_words = words};
  expect_reference(keys, 280, 20, 4);
}

TYPED_TEST(Attention, IndexScoresMatchReference) {
  const size_t queries = 5, heads = 30, dim = 64, keys = 2 * kIndexKeyStep;
  const auto q = random_values<TypeParam>(queries * heads * dim, 6),
             k = random_values<TypeParam>(keys * dim, 7);
  const auto weights = random_values<float>(queries * heads, 8, 0.1f);
  std::vector<float> found(queries * keys), expected(queries * keys);
  index_scores(q.data(), weights.data(), queries, heads, dim, k.data(), keys, found.data());
  index_scores_ref(q.data(), weights.data(), queries, heads, dim, k.data(), keys, expected.data());
  // 30 heads of products of 64: sizes up to 30 * 8 * 0.3, some 100 additions of FP32.
  for (size_t i = 0; i < found.size(); ++i) ASSERT_TRUE(std::abs(found[i] - expected[i]) <= 1e-4f) << i;
}

TEST(Indexer, TopKTakesTheLowerOfEqualScores) {
  const float scores[] = {1, 3, 2, 3, 2, 2, -INFINITY};
  uint64_t chosen = 0;
  ASSERT_TRUE(choose_top_k(scores, 7, 4, &chosen, 1));
  EXPECT_EQ(chosen, 0b11110u);
  ASSERT_TRUE(choose_top_k(scores, 7, 3, &chosen, 1));
  EXPECT_EQ(chosen, 0b01110u);
  ASSERT_TRUE(choose_top_k(scores, 3, 48, &chosen, 1));
  EXPECT_EQ(chosen, 0b111u);
  ASSERT_TRUE(choose_top_k(scores, 0, 48, &chosen, 1));
  EXPECT_EQ(chosen, 0u);
  const float nan[] = {1, NAN, 2};
  EXPECT_FALSE(choose_top_k(nan, 3, 2, &chosen, 1));
}

}  // namespace
}  // namespace nibblecast
