// tests/ops/elementwise_suite.h - norms, activations, hyper-connections and the router, on whatever they run,
// stay within the references' bounds.
//
// A backend gives every op for many rows at once, on host memory:
//   set_up()                                              may skip the test
//   amax(values)
//   rmsnorm<T>(x, width, weight or null, eps)             -> Rows<T>
//   norm_and_turn<T>(x, width, weight, eps, rope, positions)
//   swiglu<T>(gate_up, inner, limit, weights, or none)    -> Activated<T>
//   mix_streams(connection, norm, streams)                -> Mixed<T>
//   merge_streams(head, norm, streams)
//   spread_to_streams(mixes, y, n, streams)               -> Rows<T>
//   route(logits, bias, top, scaling)                     -> Routed
//   round<T>(x)
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/amax.h"
#include "ops/hyper_connection.h"
#include "ops/rmsnorm.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/suites.h"
#include "ops/swiglu.h"

namespace nibblecast::testing {

template <class T>
struct Mixed {
  std::vector<T> x;
  std::vector<StreamMix> mixes;
  float seen = 0;
};

template <class Where>
class Elementwise : public ::testing::Test {
 protected:
  using Backend = typename Where::Backend;
  using T = typename Where::Element;

  void SetUp() override { Backend::set_up(); }

  static float seen_in(const std::vector<T>& values) { return amax(values.data(), values.size()); }

  template <class From>
  static void expect_rmsnorm(size_t width, const std::vector<float>* weight) {
    constexpr size_t kRows = 3;
    const auto x = rounded<From>(random_values(kRows * width, 2, 5));
    const Rows<T> found = Backend::template rmsnorm<T>(x, width, weight, 1e-6f);
    std::vector<T> expected(width);
    for (size_t row = 0; row < kRows; ++row) {
      rmsnorm_ref(x.data() + row * width, width, weight == nullptr ? nullptr : weight->data(), 1e-6f,
                  expected.data());
      for (size_t i = 0; i < width; ++i) {
        // FP32 statistics move the result by a few FP32 units, hence at most to BF16's next number.
        const float value = to_float(expected[i]);
        ASSERT_TRUE(std::abs(to_float(found.values[row * width + i]) - value) <= 2 * unit<T>(value))
            << width << " " << row << " " << i << ": " << to_float(found.values[row * width + i]) << ", not "
            << value;
      }
    }
    EXPECT_EQ(found.seen, seen_in(found.values)) << width;
  }

  // By the formulas, in double.
  template <class From>
  static void expect_norm_and_turn(size_t width, size_t dims) {
    const std::vector<uint32_t> positions = {77, 0, 3, 99, 12, 50, 51, 2, 1};
    const Rope rope(rope_frequencies(10000, dims, std::nullopt), 100);
    const auto x = rounded<From>(random_values(positions.size() * width, 31, 2));
    const std::vector<float> weight = random_values(width, 32);
    const std::vector<T> found = Backend::template norm_and_turn<T>(x, width, weight, 1e-6f, rope, positions);
    std::vector<float> normed(width);
    for (size_t row = 0; row < positions.size(); ++row) {
      rmsnorm_ref(x.data() + row * width, width, weight.data(), 1e-6f, normed.data());
      for (size_t i = 0; i < width; ++i) {
        double expected = normed[i], size = std::abs(expected);
        if (i >= width - dims) {
          const size_t channel = i - (width - dims), first = i - channel % 2;
          const Rope::Turn turn = rope.turns()[positions[row] * dims / 2 + channel / 2];
          const double a = normed[first], b = normed[first + 1];
          expected = channel % 2 == 0 ? a * double{turn.cos} - b * double{turn.sin}
                                      : a * double{turn.sin} + b * double{turn.cos};
          size = std::abs(a) + std::abs(b);  // what cancels keeps the error of its terms
        }
        const float value = static_cast<float>(expected);
        ASSERT_TRUE(std::abs(to_float(found[row * width + i]) - value) <=
                    2 * unit<float>(static_cast<float>(size)) + unit<T>(value))
            << width << " " << row << " " << i;
      }
    }
  }

  static void expect_swiglu(size_t inner, float limit, const std::vector<float>& weights) {
    const size_t rows = 3;
    std::vector<float> gate_up = random_values(rows * 2 * inner, 4, 8);
    if (inner >= 3) {
      float *gate = gate_up.data(), *up = gate + inner;
      gate[0] = 1000, up[0] = 1000, gate[1] = -1000, up[1] = -1000, gate[2] = 10, up[2] = -10;
    }
    const Activated<T> found = Backend::template swiglu<T>(gate_up, inner, limit, weights);
    std::vector<float> expected(rows * inner);
    for (size_t row = 0; row < rows; ++row) {
      const float *gate = gate_up.data() + row * 2 * inner, weight = weights.empty() ? 1 : weights[row];
      swiglu_ref(gate, gate + inner, inner, limit, expected.data() + row * inner);
      for (size_t i = row * inner; i < (row + 1) * inner; ++i) {
        const float value = weight * expected[i];
        ASSERT_TRUE(std::abs(to_float(found.out[i]) - value) <=
                    1e-6f * std::abs(value) + unit<T>(value) + 1e-30f)
            << inner << " " << i;
      }
    }
    EXPECT_EQ(found.seen.weighted, seen_in(found.out));
    const float largest = amax(expected.data(), expected.size());
    EXPECT_NEAR(found.seen.unweighted, largest, 1e-6f * largest + unit<T>(largest));
    if (limit > 0) {
      EXPECT_LE(found.seen.unweighted, limit * limit);
    }
  }

  // fn·z has the size of a normal variable, as it has in a trained model.
  static HyperConnection random_connection(size_t n, size_t width, size_t outputs, std::vector<float> scale) {
    const float size = 1 / std::sqrt(static_cast<float>(n * width));
    return {n,
            width,
            20,
            1e-6f,
            1e-6f,
            random_values(outputs * n * width, 11, size),
            random_values(outputs, 12),
            std::move(scale)};
  }

  // fn·z over the RMS of z [n * width], in double.
  static std::vector<float> projected(const HyperConnection& connection, const T* z) {
    const size_t k = connection.streams * connection.width;
    double squares = 0;
    for (size_t i = 0; i < k; ++i) squares += std::pow(double{to_float(z[i])}, 2);
    std::vector<float> m;
    for (size_t output = 0; output < connection.base.size(); ++output) {
      double sum = 0;
      for (size_t i = 0; i < k; ++i) sum += double{connection.fn[output * k + i]} * double{to_float(z[i])};
      m.push_back(static_cast<float>(
          sum / std::sqrt(squares / static_cast<double>(k) + double{connection.norm_eps})));
    }
    return m;
  }

  // x is RMSNorm of the sum of pre[j] * z[j]. That sum may be off by 1e-5, which the norm scales.
  static void expect_merged(const HyperConnection& connection, const float* pre, const T* z,
                            const std::vector<float>& norm, const T* x) {
    const size_t width = connection.width;
    std::vector<double> sums(width);
    double squares = 0;
    for (size_t i = 0; i < width; ++i) {
      for (size_t j = 0; j < connection.streams; ++j)
        sums[i] += double{pre[j]} * double{to_float(z[j * width + i])};
      squares += sums[i] * sums[i];
    }
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + double{connection.norm_eps});
    for (size_t i = 0; i < width; ++i) {
      const float scale = static_cast<float>(factor) * norm[i], value = static_cast<float>(sums[i]) * scale;
      ASSERT_TRUE(std::abs(to_float(x[i]) - value) <= 1e-5f * std::abs(scale) + 2 * unit<T>(value))
          << i << ": " << to_float(x[i]) << ", not " << value;
    }
  }

  // after[k] = post[k] * y + sum of comb[j][k] * before[j]
  static void expect_spread(const StreamMix& mix, const T* y, size_t n, size_t width, const T* before,
                            const T* after) {
    for (size_t i = 0; i < width; ++i) {
      for (size_t k = 0; k < n; ++k) {
        float expected = mix.post[k] * to_float(y[i]);
        for (size_t j = 0; j < n; ++j) expected += mix.comb[j][k] * to_float(before[j * width + i]);
        ASSERT_NEAR(to_float(after[k * width + i]), expected, 1e-5f + unit<T>(expected)) << i << " " << k;
      }
    }
  }

  static void expect_streams_mix_and_spread(size_t n, size_t width) {
    const size_t tokens = 3;
    const HyperConnection connection = random_connection(n, width, (2 + n) * n, {0.7f, 0.8f, 0.9f});
    const std::vector<float> norm = random_values(width, 14);
    const auto streams = rounded<T>(random_values(tokens * n * width, 13));
    const Mixed<T> mixed = Backend::mix_streams(connection, norm, streams);
    const Rows<T> spread = Backend::spread_to_streams(mixed.mixes, mixed.x, n, streams);
    for (size_t token = 0; token < tokens; ++token) {
      const T *z = streams.data() + token * n * width, *x = mixed.x.data() + token * width;
      float pre[kMaxHyperStreams];
      StreamMix mix;
      split_mixes(connection, projected(connection, z).data(), pre, &mix);
      expect_merged(connection, pre, z, norm, x);
      expect_spread(mix, x, n, width, z, spread.values.data() + token * n * width);
    }
    EXPECT_EQ(mixed.seen, seen_in(mixed.x));
    EXPECT_EQ(spread.seen, seen_in(spread.values));
  }

  static void expect_streams_merge(size_t n, size_t width) {
    const size_t tokens = 3;
    const HyperConnection head = random_connection(n, width, n, {0.7f});
    const std::vector<float> norm = random_values(width, 14);
    const auto streams = rounded<T>(random_values(tokens * n * width, 15));
    const std::vector<T> x = Backend::merge_streams(head, norm, streams);
    for (size_t token = 0; token < tokens; ++token) {
      const T* z = streams.data() + token * n * width;
      const std::vector<float> m = projected(head, z);
      float pre[kMaxHyperStreams];
      for (size_t j = 0; j < n; ++j)
        pre[j] = 1 / (1 + std::exp(-(m[j] * head.scale[0] + head.base[j]))) + head.eps;
      expect_merged(head, pre, z, norm, x.data() + token * width);
    }
  }

  // Where two sums are nearer than the scores' rounding either may come first; weights follow the choice.
  static void expect_routed(size_t experts, size_t top) {
    const size_t tokens = 19;
    const std::vector<float> logits = random_values(tokens * experts, 41, 4);
    const std::vector<float> bias = random_values(experts, 42);
    const Routed found = Backend::route(logits, bias, top, 2.5f);
    EXPECT_FALSE(found.nan);
    std::vector<float> scores(experts), weights(top);
    std::vector<int32_t> expected(top);
    for (size_t token = 0; token < tokens; ++token) {
      const int32_t* chosen = found.chosen.data() + token * top;
      router_scores(logits.data() + token * experts, experts, scores.data());
      ASSERT_TRUE(choose_experts(scores.data(), bias.data(), experts, top, expected.data()));
      const auto sum = [&](int32_t expert) {
        return scores[static_cast<size_t>(expert)] + bias[static_cast<size_t>(expert)];
      };
      for (size_t i = 0; i < top; ++i) {
        ASSERT_TRUE(chosen[i] >= 0 && static_cast<size_t>(chosen[i]) < experts);
        ASSERT_EQ(std::count(chosen, chosen + top, chosen[i]), 1);
        ASSERT_NEAR(sum(chosen[i]), sum(expected[i]), 2e-6f) << experts << " " << token << " " << i;
      }
      routing_weights(scores.data(), chosen, top, 2.5f, weights.data());
      for (size_t i = 0; i < top; ++i)
        ASSERT_NEAR(found.weights[token * top + i], weights[i], 2e-6f * weights[i] + 1e-12f);
    }
  }
};

TYPED_TEST_SUITE_P(Elementwise);

TYPED_TEST_P(Elementwise, AmaxKeepsWhatIsNotFinite) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  EXPECT_EQ(Ops::amax(std::vector<Value>{}), 0);
  for (const size_t count : {1, 7, 100, 5003, 40000}) {
    std::vector<float> values = random_values(count, 1);
    values[count / 3] = -9;
    EXPECT_EQ(Ops::amax(rounded<Value>(values)), 9);
    values[count / 30] = -kInfinity;
    EXPECT_EQ(Ops::amax(rounded<Value>(values)), kInfinity);
    values[count - 1] = NAN;
    EXPECT_TRUE(std::isnan(Ops::amax(rounded<Value>(values))));
  }
}

TYPED_TEST_P(Elementwise, RmsnormMatchesReference) {
  for (const size_t width : {1, 15, 16, 17, 512, 1000, 1536, 7168, 40000}) {
    const std::vector<float> weight = random_values(width, 3);
    for (const auto* w : {static_cast<const std::vector<float>*>(nullptr), &weight}) {
      TestFixture::template expect_rmsnorm<typename TestFixture::T>(width, w);
      TestFixture::template expect_rmsnorm<float>(width, w);
    }
  }
}

TYPED_TEST_P(Elementwise, NormAndTurnMatchReference) {
  struct Case {
    size_t width, dims;
  };
  for (const Case& c : {Case{512, 64}, {64, 64}, {48, 16}, {24, 6}, {17, 4}, {2048, 64}}) {
    TestFixture::template expect_norm_and_turn<typename TestFixture::T>(c.width, c.dims);
    TestFixture::template expect_norm_and_turn<float>(c.width, c.dims);
  }
}

TYPED_TEST_P(Elementwise, SwigluMatchesReferenceAndClamps) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const size_t inner : {1, 17, 64, 1000, 3072}) {
    for (const float limit : {10.0f, 0.0f}) {
      TestFixture::expect_swiglu(inner, limit, {0.5f, 0.25f, 2});
      TestFixture::expect_swiglu(inner, limit, {});
    }
  }
  const Activated<Value> found = Ops::template swiglu<Value>({NAN, 1}, 1, 10, {});
  EXPECT_TRUE(std::isnan(found.seen.unweighted));
  EXPECT_TRUE(std::isnan(found.seen.weighted));
  EXPECT_TRUE(std::isnan(to_float(found.out[0])));
}

TYPED_TEST_P(Elementwise, SinkhornColumnsSumToOne) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const size_t n : {1, 3, 4, 8}) {
    const size_t width = 16, tokens = 70;
    HyperConnection connection = TestFixture::random_connection(n, width, (2 + n) * n, {1, 1, 1});
    connection.sinkhorn_iterations = 100;  // V4's 20 leave rows of some of these matrices 3e-3 off
    const auto streams = rounded<Value>(random_values(tokens * n * width, 10));
    for (const StreamMix& mix : Ops::mix_streams(connection, std::vector<float>(width, 1), streams).mixes) {
      for (size_t i = 0; i < n; ++i) {
        float column = 0, row = 0;
        for (size_t j = 0; j < n; ++j) column += mix.comb[j][i], row += mix.comb[i][j];
        EXPECT_NEAR(column, 0.999999f, 1e-6f);  // the last step divides by the sum + eps
        EXPECT_NEAR(row, 1, 1e-4f);
        EXPECT_TRUE(mix.post[i] > 0 && mix.post[i] < 2);
      }
    }
  }
}

// By the formulas of the header, written out for one token.
TYPED_TEST_P(Elementwise, StreamsMixAndSpread) {
  struct Case {
    size_t n, width;
  };
  for (const Case& c : {Case{2, 40}, {4, 7168}, {4, 33}, {1, 16}, {8, 72}, {8, 9}, {3, 1024}, {2, 17000}}) {
    SCOPED_TRACE(std::to_string(c.n) + " streams of " + std::to_string(c.width));
    TestFixture::expect_streams_mix_and_spread(c.n, c.width);
    TestFixture::expect_streams_merge(c.n, c.width);
  }
}

TYPED_TEST_P(Elementwise, RouterChoosesAndWeighs) {
  using Ops = typename TestFixture::Backend;
  const std::vector<float> logits = {0, 1, -30, 25, 1};
  float scores[5];
  router_scores(logits.data(), 5, scores);
  EXPECT_NEAR(scores[0], std::sqrt(std::log(2.0)), 1e-6);
  EXPECT_NEAR(scores[2], std::sqrt(std::exp(-30.0)), 1e-12);
  EXPECT_EQ(scores[3], 5);
  const Routed plain = Ops::route(logits, {0, 0, 0, 0, 0}, 3, 1);
  EXPECT_EQ(plain.chosen, (std::vector<int32_t>{3, 1, 4}));  // equal: lower first
  const Routed biased = Ops::route(logits, {10, 0, 0, 0, 0}, 2, 2.5f);
  EXPECT_EQ(biased.chosen, (std::vector<int32_t>{0, 3}));
  EXPECT_NEAR(biased.weights[0], 2.5f * scores[0] / (scores[0] + 5), 1e-6f);  // the bias does not weigh
  EXPECT_FALSE(biased.nan);
  EXPECT_TRUE(Ops::route(logits, {0, 0, NAN, 0, 0}, 3, 1).nan);
  EXPECT_TRUE(Ops::route({0, 1, NAN, 25, 1}, {0, 0, 0, 0, 0}, 3, 1).nan);
  for (const size_t experts : {6, 31, 64, 256, 384, 513, 1024}) {
    TestFixture::expect_routed(experts, 6);
    TestFixture::expect_routed(experts, std::min<size_t>(experts, 32));
  }
}

// Of equal scores the lower id, wherever they lie.
TYPED_TEST_P(Elementwise, RouterKeepsTheOrderOfTies) {
  using Ops = typename TestFixture::Backend;
  const size_t tokens = 50, experts = 384, top = 8;
  std::vector<float> logits = random_values(tokens * experts, 43);
  for (float& logit : logits) logit = std::round(logit);
  const std::vector<float> bias(experts, 0.0f);
  const Routed found = Ops::route(logits, bias, top, 1);
  std::vector<float> scores(experts);
  std::vector<int32_t> expected(top);
  for (size_t token = 0; token < tokens; ++token) {
    router_scores(logits.data() + token * experts, experts, scores.data());
    choose_experts(scores.data(), bias.data(), experts, top, expected.data());
    EXPECT_EQ(rows_of(found.chosen, top, token, 1), expected) << token;
  }
}

TYPED_TEST_P(Elementwise, RoundsToNearestEven) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const size_t count : {0, 1, 1000, 1003, 20000}) {
    const std::vector<float> x = random_values(count, 51);
    const std::vector<Value> found = Ops::template round<Value>(x);
    ASSERT_EQ(found.size(), count);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(to_float(found[i]), to_float(from_float<Value>(x[i]))) << i;
  }
}

REGISTER_TYPED_TEST_SUITE_P(Elementwise, AmaxKeepsWhatIsNotFinite, RmsnormMatchesReference,
                            NormAndTurnMatchReference, SwigluMatchesReferenceAndClamps,
                            SinkhornColumnsSumToOne, StreamsMixAndSpread, RouterChoosesAndWeighs,
                            RouterKeepsTheOrderOfTies, RoundsToNearestEven);

}  // namespace nibblecast::testing
