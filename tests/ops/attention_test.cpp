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
  auto found = random_values<T>(queries * heads * keys.raw->width(), 21, 2), expected = found;
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
  const KeyPanels<TypeParam> raw(random_values<TypeParam>(length * width, 1).data(), length, width);
  const Rope rope(rope_frequencies(10000, 16, std::nullopt), length);
  for (const size_t ratio : {0, 4, 128}) {
    for (const size_t window : {1, 16, 64, 200}) {
      const size_t count = ratio == 0 ? 0 : length / ratio;
      const KeyPanels<TypeParam> entries(random_values<TypeParam>(count * width, 2).data(), count, width);
      const AttentionKeys<TypeParam> keys{.raw = &raw,
                                          .window = window,
                                          .entries = ratio == 0 ? nullptr : &entries,
                                          .ratio = ratio,
                                          .rope = window == 64 ? &rope : nullptr};
      for (const auto& [first, queries] :
           {std::pair<size_t, size_t>(0, 1), {0, 20}, {5, 3}, {60, 20}, {130, 20}}) {
        expect_reference(keys, first, queries, 9);  // 9 heads: 180 rows, two tiles
      }
    }
  }
}

// Channels beyond a panel, and so many entries that values come in several products.
TYPED_TEST(Attention, TakesLongRowsAndWideHeads) {
  const size_t width = 136, length = 2800, entry_count = 700;
  const KeyPanels<TypeParam> raw(random_values<TypeParam>(length * width, 1).data(), length, width);
  const KeyPanels<TypeParam> entries(random_values<TypeParam>(entry_count * width, 2).data(), entry_count,
                                     width);
  const AttentionKeys<TypeParam> keys{.raw = &raw, .window = 128, .entries = &entries, .ratio = 4};
  for (const size_t first : {0, 1024, 2784}) expect_reference(keys, first, 16, 8);
}

TYPED_TEST(Attention, KeyPanelsKeepEveryValue) {
  const size_t width = 70, count = 100;
  const auto values = random_values<TypeParam>(count * width, 1);
  const KeyPanels<TypeParam> keys(values.data(), count, width);
  for (size_t key = 0; key < count; ++key) {
    for (size_t channel = 0; channel < width; ++channel) {
      ASSERT_EQ(to_float(keys.at(key, channel)), to_float(values[key * width + channel]));
    }
  }
}

TYPED_TEST(Attention, SeesOnlyChosenEntries) {
  const size_t width = 16, length = 300, words = 2;
  const KeyPanels<TypeParam> raw(random_values<TypeParam>(length * width, 3).data(), length, width);
  const KeyPanels<TypeParam> entries(random_values<TypeParam>(75 * width, 4).data(), 75, width);
  std::mt19937_64 generator(5);
  std::vector<uint64_t> chosen(length * words);
  for (uint64_t& word : chosen) word = generator();
  const AttentionKeys<TypeParam> keys{.raw = &raw,
                                      .window = 8,
                                      .entries = &entries,
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
