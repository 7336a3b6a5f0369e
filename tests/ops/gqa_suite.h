// tests/ops/gqa_suite.h - grouped-query attention of whole groups of rows, on whatever it runs, stays near
// its definition in double and near transformers' own.
//
// A backend gives
//   set_up()                            may skip the test
//   attend<T>(case, blocks_per_call)    -> Attended<T>: all rows, divided into calls of so many blocks each
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/amax.h"
#include "ops/golden.h"
#include "ops/gqa.h"
#include "ops/suites.h"

namespace nibblecast::testing {

template <class T>
struct GqaCase {
  GqaShape shape;
  std::vector<size_t> lengths;            // of the rows
  std::vector<T> q = {}, k = {}, v = {};  // all rows, one after the other
  std::vector<float> sinks = {};          // empty: none

  size_t tokens() const {
    size_t sum = 0;
    for (const size_t length : lengths) sum += length;
    return sum;
  }
};

template <class T>
struct Attended {
  std::vector<T> out;
  float seen = 0;  // max |out|
};

inline constexpr size_t kOneCall = 1 << 20;

template <class T>
std::vector<T> random_elements(size_t count, unsigned seed, float size) {
  return rounded<T>(random_values(count, seed, size));
}

template <class T>
GqaCase<T> make_gqa_case(const GqaShape& shape, const std::vector<size_t>& lengths, unsigned seed,
                         bool sinks = false) {
  GqaCase<T> made{.shape = shape, .lengths = lengths};
  const size_t tokens = made.tokens();
  made.q = random_elements<T>(tokens * shape.heads * shape.key_width, seed, 2);
  made.k = random_elements<T>(tokens * shape.kv_heads * shape.key_width, seed + 1, 1);
  made.v = random_elements<T>(tokens * shape.kv_heads * shape.value_width, seed + 2, 1);
  if (sinks) made.sinks = random_elements<float>(shape.heads, seed + 3, 2);
  return made;
}

template <class T>
std::vector<T> gqa_by_definition(const GqaCase<T>& in) {
  const GqaShape& shape = in.shape;
  std::vector<T> out(in.tokens() * shape.heads * shape.value_width);
  size_t begin = 0;
  for (const size_t length : in.lengths) {
    gqa_ref(shape, in.q.data() + begin * shape.heads * shape.key_width,
            in.k.data() + begin * shape.kv_heads * shape.key_width,
            in.v.data() + begin * shape.kv_heads * shape.value_width, length,
            in.sinks.empty() ? nullptr : in.sinks.data(),
            out.data() + begin * shape.heads * shape.value_width);
    begin += length;
  }
  return out;
}

template <class T>
bool equal_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class Where>
class Gqa : public ::testing::Test {
 protected:
  using Backend = typename Where::Backend;
  using Value = typename Where::Element;

  void SetUp() override { Backend::set_up(); }

  // Outputs are weighted means of values of size about 4 at most. float: some units of the sums' terms. bf16:
  // p and the result are rounded, each by 2^-9 of its size.
  static constexpr float kTolerance = sizeof(Value) == 2 ? 3 * 4 * 0x1p-9f : 3e-5f;

  static void expect_definition(const GqaCase<Value>& in) {
    const Attended<Value> found = Backend::template attend<Value>(in, kOneCall);
    const std::vector<Value> expected = gqa_by_definition(in);
    ASSERT_EQ(found.out.size(), expected.size());
    const GqaShape& shape = in.shape;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(std::abs(to_float(found.out[i]) - to_float(expected[i])) <= kTolerance)
          << shape.heads << " heads over " << shape.kv_heads << " of " << shape.key_width << " and "
          << shape.value_width << ", window " << shape.window << ", token "
          << i / shape.value_width / shape.heads << ", head " << i / shape.value_width % shape.heads
          << ", channel " << i % shape.value_width << ": " << to_float(found.out[i]) << " for "
          << to_float(expected[i]);
    }
    EXPECT_EQ(found.seen, amax(found.out.data(), found.out.size()));
  }
};

inline GqaShape gqa_shape(size_t heads, size_t kv_heads, size_t key_width, size_t value_width,
                          size_t window = 0) {
  return {heads, kv_heads, key_width, value_width, 1 / std::sqrt(static_cast<float>(key_width)), window};
}

TYPED_TEST_SUITE_P(Gqa);

// Groups of one, of few, of a number that divides nothing; widths of real models and of MLA.
TYPED_TEST_P(Gqa, MatchesDefinition) {
  struct Case {
    size_t heads, kv_heads, key_width, value_width;
  };
  const Case cases[] = {{3, 3, 64, 64},   {8, 2, 128, 128}, {7, 1, 80, 80},  {6, 2, 96, 96}, {4, 1, 256, 256},
                        {4, 4, 192, 128}, {2, 1, 40, 24},   {2, 2, 64, 256}, {16, 1, 8, 8},  {10, 5, 16, 72}};
  unsigned seed = 100;
  for (const Case& c : cases) {
    for (const size_t window : {0, 1, 17, 100}) {
      const GqaShape shape = gqa_shape(c.heads, c.kv_heads, c.key_width, c.value_width, window);
      TestFixture::expect_definition(make_gqa_case<typename TestFixture::Value>(shape, {70, 3, 0, 129, 64},
                                                                                seed += 10, window % 2 == 1));
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST_P(Gqa, TakesLongRows) {
  using T = typename TestFixture::Value;
  TestFixture::expect_definition(make_gqa_case<T>(gqa_shape(2, 1, 64, 64), {20, 1300}, 7));
  TestFixture::expect_definition(make_gqa_case<T>(gqa_shape(2, 1, 64, 64, 600), {1300}, 8));
}

TYPED_TEST_P(Gqa, TakesHeadsOfAnyWidth) {
  using T = typename TestFixture::Value;
  for (const size_t width : {512, 320, 264})
    TestFixture::expect_definition(make_gqa_case<T>(gqa_shape(2, 1, width, width), {75}, 9));
  TestFixture::expect_definition(make_gqa_case<T>(gqa_shape(2, 1, 512, 64, 30), {75}, 9));
}

TYPED_TEST_P(Gqa, TakesManyHeadsOverOne) {
  using T = typename TestFixture::Value;
  TestFixture::expect_definition(make_gqa_case<T>(gqa_shape(150, 1, 16, 16), {40, 9}, 10));
}

TYPED_TEST_P(Gqa, TakesSinksOfAnySize) {
  using T = typename TestFixture::Value;
  for (const size_t window : {0, 30}) {
    auto in = make_gqa_case<T>(gqa_shape(4, 2, 32, 32, window), {90}, 11);
    in.sinks = {-kInfinity, -50, 12, 60};
    TestFixture::expect_definition(in);
  }
}

TYPED_TEST_P(Gqa, TakesAnyScale) {
  using T = typename TestFixture::Value;
  for (const float scale : {0.0f, 1.0f, 0.0625f}) {
    GqaShape shape = gqa_shape(2, 1, 64, 64);
    shape.scale = scale;
    TestFixture::expect_definition(make_gqa_case<T>(shape, {80}, 12));
  }
}

// Neither how queries are divided into calls nor the other rows may change a bit, nor the run.
TYPED_TEST_P(Gqa, DividesIntoCallsWithoutChangingABit) {
  using T = typename TestFixture::Value;
  using Ops = typename TestFixture::Backend;
  for (const size_t window : {0, 90}) {
    const GqaShape shape = gqa_shape(6, 2, 128, 128, window);
    const auto in = make_gqa_case<T>(shape, {33, 700, 90}, 14, window != 0);
    const Attended<T> whole = Ops::template attend<T>(in, kOneCall);
    for (const size_t blocks_per_call : {size_t{1}, size_t{3}, kOneCall}) {
      const Attended<T> again = Ops::template attend<T>(in, blocks_per_call);
      EXPECT_TRUE(equal_bytes(again.out, whole.out)) << blocks_per_call;
      EXPECT_EQ(again.seen, whole.seen);
    }
    GqaCase<T> alone{.shape = shape, .lengths = {700}, .sinks = in.sinks};
    const auto part = [](const std::vector<T>& values, size_t per_token) {
      return std::vector<T>(values.begin() + static_cast<ptrdiff_t>(33 * per_token),
                            values.begin() + static_cast<ptrdiff_t>(733 * per_token));
    };
    alone.q = part(in.q, shape.heads * shape.key_width);
    alone.k = part(in.k, shape.kv_heads * shape.key_width);
    alone.v = part(in.v, shape.kv_heads * shape.value_width);
    EXPECT_TRUE(equal_bytes(Ops::template attend<T>(alone, kOneCall).out,
                            part(whole.out, shape.heads * shape.value_width)));
  }
}

// What is not a number reaches every query that sees it.
TYPED_TEST_P(Gqa, KeepsNaN) {
  using T = typename TestFixture::Value;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const auto clean = make_gqa_case<T>(gqa_shape(2, 1, 32, 32), {140}, 16);
  auto in = clean;
  const size_t head = 21 * 2 + 1;  // of token 21
  in.q[head * 32 + 5] = from_float<T>(kNaN);
  const Attended<T> query = TestFixture::Backend::template attend<T>(in, kOneCall);
  EXPECT_TRUE(std::isnan(query.seen));
  for (size_t i = 0; i < query.out.size(); ++i)
    ASSERT_EQ(std::isnan(to_float(query.out[i])), i / 32 == head) << i;
  in = clean;
  in.k[100 * 32 + 20] = from_float<T>(kNaN);
  const Attended<T> key = TestFixture::Backend::template attend<T>(in, kOneCall);
  for (size_t i = 100 * 64; i < key.out.size(); ++i) ASSERT_TRUE(std::isnan(to_float(key.out[i]))) << i;
  in = clean;
  in.v[100 * 32 + 20] = from_float<T>(kNaN);
  const Attended<T> value = TestFixture::Backend::template attend<T>(in, kOneCall);
  for (size_t token = 100; token < 140; ++token)
    ASSERT_TRUE(std::isnan(to_float(value.out[token * 64 + 20]))) << token;
}

TYPED_TEST_P(Gqa, TakesRowsWithoutTokens) {
  using T = typename TestFixture::Value;
  EXPECT_TRUE(
      TestFixture::Backend::template attend<T>(make_gqa_case<T>(gqa_shape(4, 2, 32, 32), {0, 0}, 1), kOneCall)
          .out.empty());
}

// eager_attention_forward in FP32: where T is BF16 its inputs are rounded first, which moves logits.
TYPED_TEST_P(Gqa, IsTransformers) {
  using T = typename TestFixture::Value;
  const Json& golden = decoder_golden()["attention"];
  const size_t width = golden["width"];
  const auto elements = [&](const char* name) {
    std::vector<T> values;
    for (const float value : floats(golden[name])) values.push_back(from_float<T>(value));
    return values;
  };
  for (const Json& c : golden["cases"]) {
    const GqaShape shape = gqa_shape(golden["heads"], golden["kv_heads"], width, width, c["window"]);
    const GqaCase<T> in{shape,         {golden["tokens"]}, elements("q"),
                        elements("k"), elements("v"),      floats(c["sinks"])};
    const Attended<T> found = TestFixture::Backend::template attend<T>(in, kOneCall);
    expect_golden<T>(found.out, floats(c["out"]), sizeof(T) == 2 ? 0.02f : 1e-6f, c["name"]);
  }
}

REGISTER_TYPED_TEST_SUITE_P(Gqa, MatchesDefinition, TakesLongRows, TakesHeadsOfAnyWidth,
                            TakesManyHeadsOverOne, TakesSinksOfAnySize, TakesAnyScale,
                            DividesIntoCallsWithoutChangingABit, KeepsNaN, TakesRowsWithoutTokens,
                            IsTransformers);

}  // namespace nibblecast::testing
