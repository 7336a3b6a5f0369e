#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/compressor.h"
#include "ops/elementwise_suite.h"
#include "ops/exp.h"
#include "ops/round.h"

namespace nibblecast {
namespace {

using testing::Activated;
using testing::Elementwise;
using testing::kInfinity;
using testing::Mixed;
using testing::On;
using testing::random_values;
using testing::rounded;
using testing::Routed;
using testing::Rows;
using testing::unit;

// Each op row by row, as the forward pass calls them.
struct CpuOps {
  static void set_up() {}

  template <class T>
  static float amax(const std::vector<T>& values) {
    return nibblecast::amax(values.data(), values.size());
  }

  template <class T, class From>
  static Rows<T> rmsnorm(const std::vector<From>& x, size_t width, const std::vector<float>* weight,
                         float eps) {
    Rows<T> y{std::vector<T>(x.size())};
    for (size_t begin = 0; begin < x.size(); begin += width) {
      nibblecast::rmsnorm(x.data() + begin, width, weight == nullptr ? nullptr : weight->data(), eps,
                          y.values.data() + begin);
    }
    y.seen = amax(y.values);
    return y;
  }

  template <class T, class From>
  static std::vector<T> norm_and_turn(const std::vector<From>& x, size_t width,
                                      const std::vector<float>& weight, float eps, const Rope& rope,
                                      const std::vector<uint32_t>& positions) {
    std::vector<float> y = rmsnorm<float>(x, width, &weight, eps).values;
    for (size_t row = 0; row < positions.size(); ++row)
      rope.apply(y.data() + (row + 1) * width - rope.dims(), positions[row]);
    return rounded<T>(y);
  }

  template <class T>
  static Activated<T> swiglu(const std::vector<float>& gate_up, size_t inner, float limit,
                             const std::vector<float>& weights) {
    Activated<T> result{std::vector<T>(gate_up.size() / 2), {}};
    Amax unweighted, weighted;
    for (size_t row = 0; row * 2 * inner < gate_up.size(); ++row) {
      const float* gate = gate_up.data() + row * 2 * inner;
      const SwigluAmax seen =
          nibblecast::swiglu(gate, gate + inner, inner, limit, weights.empty() ? 1.0f : weights[row],
                             result.out.data() + row * inner);
      unweighted.add(seen.unweighted);
      weighted.add(seen.weighted);
    }
    result.seen = {unweighted.value(), weighted.value()};
    return result;
  }

  template <class T>
  static Mixed<T> mix_streams(const HyperConnection& connection, const std::vector<float>& norm,
                              const std::vector<T>& streams) {
    const size_t stride = connection.streams * connection.width, tokens = streams.size() / stride;
    std::vector<float> sums(tokens * connection.width);
    std::vector<StreamMix> mixes(tokens);
    for (size_t first = 0; first < tokens; first += kHyperRows) {
      nibblecast::mix_streams(connection, streams.data() + first * stride,
                              std::min(kHyperRows, tokens - first), sums.data() + first * connection.width,
                              mixes.data() + first);
    }
    const Rows<T> x = rmsnorm<T>(sums, connection.width, &norm, connection.norm_eps);
    return {x.values, mixes, x.seen};
  }

  template <class T>
  static std::vector<T> merge_streams(const HyperConnection& head, const std::vector<float>& norm,
                                      const std::vector<T>& streams) {
    const size_t tokens = streams.size() / (head.streams * head.width);
    std::vector<float> sums(tokens * head.width);
    nibblecast::merge_streams(head, streams.data(), tokens, sums.data());
    return rmsnorm<T>(sums, head.width, &norm, head.norm_eps).values;
  }

  template <class T>
  static Rows<T> spread_to_streams(const std::vector<StreamMix>& mixes, const std::vector<T>& y, size_t n,
                                   std::vector<T> streams) {
    const size_t width = y.size() / mixes.size();
    for (size_t token = 0; token < mixes.size(); ++token) {
      nibblecast::spread_to_streams(mixes[token], y.data() + token * width, n, width,
                                    streams.data() + token * n * width);
    }
    const float seen = amax(streams);
    return {std::move(streams), seen};
  }

  static Routed route(const std::vector<float>& logits, const std::vector<float>& bias, size_t top,
                      float scaling) {
    const size_t experts = bias.size(), tokens = logits.size() / experts;
    Routed routed{std::vector<int32_t>(tokens * top), std::vector<float>(tokens * top)};
    std::vector<float> scores(experts);
    for (size_t token = 0; token < tokens; ++token) {
      int32_t* chosen = routed.chosen.data() + token * top;
      router_scores(logits.data() + token * experts, experts, scores.data());
      if (!choose_experts(scores.data(), bias.data(), experts, top, chosen)) routed.nan = true;
      routing_weights(scores.data(), chosen, top, scaling, routed.weights.data() + token * top);
    }
    return routed;
  }

  template <class T>
  static std::vector<T> round(const std::vector<float>& x) {
    std::vector<T> out(x.size());
    round_rows(x.data(), x.size(), 1, x.size(), out.data(), x.size());
    return out;
  }
};

using CpuTypes = ::testing::Types<On<CpuOps, float>, On<CpuOps, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, Elementwise, CpuTypes);
}

namespace {

template <class T>
class RopeOf : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(RopeOf, Types);

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

TYPED_TEST(RopeOf, TurnsPairsAndBack) {
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

}  // namespace
}  // namespace nibblecast
