#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "ops/amax.h"
#include "ops/compressor.h"
#include "ops/exp.h"
#include "ops/hyper_connection.h"
#include "ops/rmsnorm.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/swiglu.h"

namespace nibblecast {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_values(size_t count, unsigned seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

template <class T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) result.push_back(from_float<T>(value));
  return result;
}

// One unit in the last place of T at `value`.
template <class T>
float unit(float value) {
  return std::max(std::abs(value), 1e-30f) * (sizeof(T) == 2 ? 0x1p-7f : 0x1p-22f);
}

template <class T>
class Elementwise : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(Elementwise, Types);

TEST(Exp, StaysBelowItsStatedError) {
  for (float x = -87; x <= 88; x += 0.0137f) {
    const double expected = std::exp(double{x});
    ASSERT_TRUE(std::abs(exp_f32(x) - expected) <= 3e-7 * expected) << x;
  }
  EXPECT_EQ(exp_f32(0), 1);
  EXPECT_EQ(exp_f32(-kInfinity), 0);
  EXPECT_EQ(exp_f32(-88), 0);
  EXPECT_EQ(exp_f32(kInfinity), exp_f32(88));
  EXPECT_TRUE(std::isnan(exp_f32(NAN)));
}

TYPED_TEST(Elementwise, AmaxKeepsWhatIsNotFinite) {
  std::vector<float> values = random_values(100, 1);
  values[37] = -9;
  EXPECT_EQ(amax(rounded<TypeParam>(values).data(), 100), 9);
  EXPECT_EQ(amax<TypeParam>(nullptr, 0), 0);
  values[3] = -kInfinity;
  EXPECT_EQ(amax(rounded<TypeParam>(values).data(), 100), kInfinity);
  values[99] = NAN;
  EXPECT_TRUE(std::isnan(amax(rounded<TypeParam>(values).data(), 100)));
}

TEST(Amax, OrdersNanAboveInfinity) {
  Amax amax;
  EXPECT_EQ(amax.value(), 0);
  amax.add(2);
  amax.add(-3);
  EXPECT_EQ(amax.value(), 3);
  amax.add(NAN);
  amax.add(kInfinity);
  EXPECT_TRUE(std::isnan(amax.value()));
}

TYPED_TEST(Elementwise, RmsnormMatchesReference) {
  for (const size_t count : {1, 15, 16, 17, 512, 1000}) {
    const auto x = rounded<TypeParam>(random_values(count, 2, 5));
    const std::vector<float> weight = random_values(count, 3);
    for (const float* w : {static_cast<const float*>(nullptr), weight.data()}) {
      std::vector<TypeParam> found(count), expected(count);
      rmsnorm(x.data(), count, w, 1e-6f, found.data());
      rmsnorm_ref(x.data(), count, w, 1e-6f, expected.data());
      for (size_t i = 0; i < count; ++i) {
        // FP32 statistics move the result by a few FP32 units, hence at most to BF16's next number.
        const float value = to_float(expected[i]);
        ASSERT_TRUE(std::abs(to_float(found[i]) - value) <= 2 * unit<TypeParam>(value)) << count << " " << i;
      }
    }
  }
}

TYPED_TEST(Elementwise, SwigluMatchesReferenceAndClamps) {
  std::vector<float> gate = random_values(1000, 4, 8), up = random_values(1000, 5, 8);
  gate[0] = 1000, up[0] = 1000, gate[1] = -1000, up[1] = -1000, gate[2] = 10, up[2] = -10;
  for (const float limit : {10.0f, 0.0f}) {
    std::vector<TypeParam> found(1000);
    std::vector<float> expected(1000);
    const SwigluAmax seen = swiglu(gate.data(), up.data(), 1000, limit, 0.5f, found.data());
    swiglu_ref(gate.data(), up.data(), 1000, limit, expected.data());
    for (size_t i = 0; i < 1000; ++i) {
      const float value = 0.5f * expected[i];
      ASSERT_TRUE(std::abs(to_float(found[i]) - value) <=
                  1e-6f * std::abs(value) + unit<TypeParam>(value) + 1e-30f)
          << i;
    }
    EXPECT_EQ(seen.weighted, amax(found.data(), 1000));
    const float largest = amax(expected.data(), 1000);
    EXPECT_NEAR(seen.unweighted, largest, 1e-6f * largest + unit<TypeParam>(largest));
    if (limit > 0) {
      EXPECT_LE(seen.unweighted, limit * limit);
    }
  }
  const float nan = NAN, one = 1;
  TypeParam out{};
  EXPECT_TRUE(std::isnan(swiglu(&nan, &one, 1, 10, 1, &out).unweighted));
  EXPECT_TRUE(std::isnan(to_float(out)));
}

// Check values: DeepSeek-V4's compressed layers (theta 160000, YaRN factor 16 from 65536, beta 32 and 1).
TEST(Rope, FrequenciesAreTheReferences) {
  const auto yarn = rope_frequencies(160000, 64, Yarn{16, 32, 1, 65536});
  const std::pair<size_t, float> expected[] = {{0, 1.0f},           {1, 0.68765602f},    {15, 0.0036355386f},
                                               {16, 0.002265625f},  {17, 0.0013968013f}, {24, 1.953125e-5f},
                                               {25, 5.3723127e-6f}, {31, 5.680529e-7f}};
  for (const auto& [i, value] : expected) EXPECT_NEAR(yarn[i], value, value * 2e-6f) << i;
  const auto plain = rope_frequencies(10000, 64, std::nullopt);
  EXPECT_EQ(plain[0], 1);
  EXPECT_NEAR(plain[16], 0.01f, 1e-8f);
}

TYPED_TEST(Elementwise, RopeTurnsPairsAndBack) {
  const Rope rope(rope_frequencies(10000, 8, std::nullopt), 100);
  const auto x = rounded<TypeParam>({1, 2, -3, 4, 0.5f, 0, 7, -8});
  auto y = x;
  rope.apply(y.data(), 0);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(to_float(y[i]), to_float(x[i]));
  rope.apply(y.data(), 77);
  EXPECT_NEAR(to_float(y[0]), std::cos(77.0) - 2 * std::sin(77.0), 2 * unit<TypeParam>(3));
  EXPECT_NEAR(to_float(y[1]), std::sin(77.0) + 2 * std::cos(77.0), 2 * unit<TypeParam>(3));
  rope.apply_inverse(y.data(), 77);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(to_float(y[i]), to_float(x[i]), 4 * unit<TypeParam>(8)) << i;
}

TEST(Compressor, MatchesReference) {
  for (const CompressorShape& shape : {CompressorShape{128, 100, false}, CompressorShape{4, 100, true}}) {
    const size_t entries = 3, channels = shape.channels(), tokens = entries * shape.ratio;
    const std::vector<float> values = random_values(tokens * channels, 6),
                             gates = random_values(tokens * channels, 7, 3);
    const std::vector<float> ape = random_values(shape.ratio * channels, 8);
    for (size_t entry = 0; entry < entries; ++entry) {
      std::vector<float> found(shape.dim), expected(shape.dim);
      compress_window(shape, values.data(), gates.data(), ape.data(), entry, found.data());
      compress_window_ref(shape, values.data(), gates.data(), ape.data(), entry, expected.data());
      for (size_t i = 0; i < shape.dim; ++i) {
        // A weighted mean of values around 1 in size: absolute error of a few FP32 units.
        ASSERT_NEAR(found[i], expected[i], 2e-6f) << i;
      }
    }
  }
}

TEST(HyperConnection, SinkhornColumnsSumToOne) {
  const size_t n = 4, outputs = (2 + n) * n;
  const HyperConnection connection{n, 8, 20, 1e-6f, 1e-6f, {}, random_values(outputs, 9), {1, 1, 1}};
  const std::vector<float> m = random_values(outputs, 10);
  float pre[kMaxHyperStreams];
  StreamMix mix;
  split_mixes(connection, m.data(), pre, &mix);
  for (size_t i = 0; i < n; ++i) {
    float column = 0, row = 0;
    for (size_t j = 0; j < n; ++j) column += mix.comb[j][i], row += mix.comb[i][j];
    EXPECT_NEAR(column, 0.999999f, 1e-6f);  // the last step divides by the sum + eps
    EXPECT_NEAR(row, 1, 1e-4f);
    EXPECT_TRUE(pre[i] > 0 && pre[i] < 1.00001f && mix.post[i] > 0 && mix.post[i] < 2);
  }
}

// By the formulas of the header, written out for one token.
TYPED_TEST(Elementwise, StreamsMixAndSpread) {
  const size_t n = 2, width = 40, outputs = (2 + n) * n;
  const HyperConnection connection{n,
                                   width,
                                   5,
                                   1e-6f,
                                   1e-6f,
                                   random_values(outputs * n * width, 11, 0.1f),
                                   random_values(outputs, 12),
                                   {0.7f, 0.8f, 0.9f}};
  const auto streams = rounded<TypeParam>(random_values(3 * n * width, 13));
  std::vector<float> mixed(3 * width);
  StreamMix mixes[3];
  mix_streams(connection, streams.data(), 3, mixed.data(), mixes);
  const std::vector<TypeParam> x = rounded<TypeParam>(mixed);
  for (size_t token = 0; token < 3; ++token) {
    const TypeParam* z = streams.data() + token * n * width;
    std::vector<float> m(outputs);
    double squares = 0;
    for (size_t i = 0; i < n * width; ++i) squares += std::pow(double{to_float(z[i])}, 2);
    for (size_t output = 0; output < outputs; ++output) {
      double sum = 0;
      for (size_t i = 0; i < n * width; ++i)
        sum += double{connection.fn[output * n * width + i]} * double{to_float(z[i])};
      m[output] = static_cast<float>(sum / std::sqrt(squares / (n * width) + 1e-6));
    }
    float pre[kMaxHyperStreams];
    StreamMix mix;
    split_mixes(connection, m.data(), pre, &mix);
    auto spread = std::vector<TypeParam>(z, z + n * width);
    spread_to_streams(mixes[token], x.data() + token * width, n, width, spread.data());
    for (size_t i = 0; i < width; ++i) {
      const float expected_x = pre[0] * to_float(z[i]) + pre[1] * to_float(z[width + i]);
      ASSERT_NEAR(mixed[token * width + i], expected_x, 1e-5f);
      for (size_t k = 0; k < n; ++k) {
        const float expected = mix.post[k] * to_float(x[token * width + i]) +
                               mix.comb[0][k] * to_float(z[i]) + mix.comb[1][k] * to_float(z[width + i]);
        ASSERT_NEAR(to_float(spread[k * width + i]), expected, 1e-5f + unit<TypeParam>(expected));
      }
    }
  }
}

TEST(Router, ScoresChoosesAndWeighs) {
  const float logits[] = {0, 1, -30, 25, 1};
  float scores[5];
  router_scores(logits, 5, scores);
  EXPECT_NEAR(scores[0], std::sqrt(std::log(2.0)), 1e-6);
  EXPECT_NEAR(scores[2], std::sqrt(std::exp(-30.0)), 1e-12);
  EXPECT_EQ(scores[3], 5);
  const float none[] = {0, 0, 0, 0, 0}, bias[] = {10, 0, 0, 0, 0}, nan[] = {0, 0, NAN, 0, 0};
  int32_t chosen[3];
  ASSERT_TRUE(choose_experts(scores, none, 5, 3, chosen));
  EXPECT_EQ(std::vector<int32_t>(chosen, chosen + 3), (std::vector<int32_t>{3, 1, 4}));  // equal: lower first
  ASSERT_TRUE(choose_experts(scores, bias, 5, 2, chosen));
  EXPECT_EQ(chosen[0], 0);
  float weights[3];
  routing_weights(scores, chosen, 2, 2.5f, weights);
  EXPECT_NEAR(weights[0], 2.5f * scores[0] / (scores[0] + 5), 1e-6f);  // the bias does not weigh
  EXPECT_FALSE(choose_experts(scores, nan, 5, 3, chosen));
}

}  // namespace
}  // namespace nibblecast
