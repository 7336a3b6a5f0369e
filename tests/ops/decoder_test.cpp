#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/decoder_suite.h"
#include "ops/linear.h"
#include "ops/round.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::Activated;
using testing::Decoder;
using testing::floats;
using testing::On;
using testing::random_values;
using testing::rounded;
using testing::Routed;
using testing::Rows;

// Each op row by row, as a forward pass calls them.
struct CpuDecoder {
  static void set_up() {}

  template <class T, class From>
  static Rows<T> norm(const std::vector<From>& x, size_t width, const std::vector<float>& weight,
                      NormWeight use, float eps) {
    Rows<T> y{std::vector<T>(x.size())};
    for (size_t begin = 0; begin < x.size(); begin += width) {
      rmsnorm(x.data() + begin, width, weight.empty() ? nullptr : weight.data(), use, eps,
              y.values.data() + begin);
    }
    y.seen = amax(y.values.data(), y.values.size());
    return y;
  }

  template <class T, class From>
  static std::vector<T> norm_and_turn_heads(const std::vector<From>& x, size_t heads, size_t width,
                                            const HeadNorm* norm, const Rope* rope,
                                            const std::vector<uint32_t>& positions, RopePlace place) {
    std::vector<T> y(x.size());
    for (size_t token = 0; token < positions.size(); ++token) {
      nibblecast::norm_and_turn_heads(x.data() + token * heads * width, heads, width, norm, rope,
                                      positions[token], y.data() + token * heads * width, place);
    }
    return y;
  }

  template <class T>
  static std::pair<std::vector<T>, std::vector<T>> spread_latent(const LatentHeads& shape,
                                                                 const std::vector<float>& expanded,
                                                                 const std::vector<T>& shared) {
    const size_t tokens = shared.size() / shape.shared;
    std::vector<T> keys(tokens * shape.heads * shape.key_width()), values(tokens * shape.heads * shape.value);
    for (size_t token = 0; token < tokens; ++token) {
      nibblecast::spread_latent(shape, expanded.data() + token * shape.heads * shape.expanded_width(),
                                shared.data() + token * shape.shared,
                                keys.data() + token * shape.heads * shape.key_width(),
                                values.data() + token * shape.heads * shape.value);
    }
    return {keys, values};
  }

  template <class T>
  static Activated<T> activate(const Activation& activation, const std::vector<float>& inputs, size_t inner,
                               const std::vector<float>& weights) {
    const size_t width = activation.gated() ? 2 * inner : inner, rows = inputs.size() / width;
    Activated<T> result{std::vector<T>(rows * inner), {}};
    Amax unweighted, weighted;
    for (size_t row = 0; row < rows; ++row) {
      const float* gate = inputs.data() + row * width;
      const ActivationAmax seen =
          nibblecast::activate(activation, activation.gated() ? gate : nullptr, gate + width - inner, inner,
                               weights.empty() ? 1.0f : weights[row], result.out.data() + row * inner);
      unweighted.add(seen.unweighted);
      weighted.add(seen.weighted);
    }
    result.seen = {unweighted.value(), weighted.value()};
    return result;
  }

  static Routed route(const RouterSpec& router, const std::vector<float>& logits,
                      const std::vector<float>& bias) {
    const size_t tokens = logits.size() / router.experts;
    Routed routed{std::vector<int32_t>(tokens * router.top), std::vector<float>(tokens * router.top)};
    for (size_t token = 0; token < tokens; ++token) {
      if (!nibblecast::route(router, logits.data() + token * router.experts,
                             bias.empty() ? nullptr : bias.data(), routed.chosen.data() + token * router.top,
                             routed.weights.data() + token * router.top)) {
        routed.nan = true;
      }
    }
    return routed;
  }

  template <class T>
  static std::vector<T> add_bias(const std::vector<float>& x, const std::vector<float>& bias) {
    std::vector<T> y(x.size());
    round_biased_rows(x.data(), bias.size(), x.size() / bias.size(), bias.size(), bias.data(), y.data(),
                      bias.size());
    return y;
  }
};

using CpuTypes = ::testing::Types<On<CpuDecoder, float>, On<CpuDecoder, bf16>>;
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, Decoder, CpuTypes);
}

namespace {

TEST(DecoderCpu, LinearsAddTheirBias) {
  const size_t rows = 150, in = 96, out = 200;
  const auto weight = rounded<bf16>(random_values(out * in, 1, 0.1f)),
             x = rounded<bf16>(random_values(rows * in, 2));
  const std::vector<float> bias = random_values(out, 3);
  const WeightView view = Bf16View{weight.data(), out, in};
  std::vector<float> plain(rows * out), biased(rows * out);
  linear(x.data(), rows, view, plain.data());
  biased_linear(x.data(), rows, view, bias.data(), biased.data());
  for (size_t i = 0; i < biased.size(); ++i) ASSERT_EQ(biased[i], plain[i] + bias[i % out]) << i;
}

// `parameters` as a config spells them.
RopeSpec spec_of(const Json& parameters, size_t dims) {
  RopeSpec spec{.theta = parameters["rope_theta"], .dims = dims};
  const std::string type = parameters["rope_type"];
  const double length = parameters.value("original_max_position_embeddings", 0.0);
  if (type == "linear") spec.scaling = LinearRope{parameters["factor"]};
  if (type == "dynamic") spec.scaling = DynamicRope{131072};
  if (type == "llama3") {
    spec.scaling = Llama3Rope{parameters["factor"], parameters["low_freq_factor"],
                              parameters["high_freq_factor"], length};
  }
  if (type == "yarn") {
    YarnRope yarn{.yarn = {parameters["factor"], parameters.value("beta_fast", 32.0),
                           parameters.value("beta_slow", 1.0), length, parameters.value("truncate", true)},
                  .mscale = parameters.value("mscale", 0.0),
                  .mscale_all_dim = parameters.value("mscale_all_dim", 0.0)};
    if (parameters.contains("attention_factor")) yarn.attention_factor = parameters["attention_factor"];
    spec.scaling = yarn;
  }
  return spec;
}

// A power of FP32 is within two of its last units of ours; the steps after it add one each, at most four.
constexpr float kFrequencyError = 6 * 0x1p-23f;

TEST(RopeTable, FrequenciesAreTransformers) {
  for (const Json& c : testing::decoder_golden()["rope"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const RopeTable table = rope_table(spec_of(c["parameters"], c["dims"]));
    const std::vector<float> expected = floats(c["frequencies"]);
    ASSERT_EQ(table.frequencies.size(), expected.size());
    EXPECT_FLOAT_EQ(table.factor, c["factor"].get<float>());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_LE(std::abs(table.frequencies[i] - expected[i]), kFrequencyError * expected[i]) << i;
  }
}

// An angle's error is its frequency's, which the position multiplies.
TEST(RopeTable, CosinesAndSinesAreTransformers) {
  for (const Json& c : testing::decoder_golden()["rope"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const Rope rope = make_rope(spec_of(c["parameters"], c["dims"]), 512);
    const std::vector<float> frequencies = floats(c["frequencies"]), cos = floats(c["cos"]),
                             sin = floats(c["sin"]);
    const size_t pairs = frequencies.size();
    for (size_t i = 0; i < cos.size(); ++i) {
      const size_t position = c["positions"][i / pairs];
      const Rope::Turn turn = rope.turns()[position * pairs + i % pairs];
      const float angle = static_cast<float>(position) * frequencies[i % pairs];
      const float tolerance =
          c["factor"].get<float>() * (angle * (kFrequencyError + 0x1p-23f) + 4 * 0x1p-23f);
      EXPECT_NEAR(turn.cos, cos[i], tolerance) << position << " " << i % pairs;
      EXPECT_NEAR(turn.sin, sin[i], tolerance) << position << " " << i % pairs;
    }
  }
}

TEST(RopeTable, DynamicEndsAtItsLength) {
  const RopeSpec spec{.dims = 64, .scaling = DynamicRope{2048}};
  EXPECT_EQ(make_rope(spec, 2048).dims(), 64u);
  EXPECT_EQ(rope_table(spec).frequencies, rope_table({.dims = 64}).frequencies);
  testing::expect_error(
      ErrorKind::kUnsupported, [&] { make_rope(spec, 2049); }, "dynamic", "2048", "2049");
}

TEST(Rope, HalvesAndPairsAreOneTurn) {
  const std::vector<float> frequencies = {1, 0.25f, 0.01f};
  const Rope halves(frequencies, 9, RopePairing::kHalves), pairs(frequencies, 9, RopePairing::kInterleaved);
  const std::vector<float> x = random_values(6, 1);
  std::vector<float> a = x, b = {x[0], x[3], x[1], x[4], x[2], x[5]};
  halves.apply(a.data(), 7);
  pairs.apply(b.data(), 7);
  EXPECT_EQ(a, (std::vector<float>{b[0], b[2], b[4], b[1], b[3], b[5]}));
  const Rope grown(frequencies, 9, RopePairing::kHalves, 2);
  std::vector<float> twice = x;
  grown.apply(twice.data(), 7);
  for (size_t i = 0; i < 6; ++i) EXPECT_FLOAT_EQ(twice[i], 2 * a[i]);
}

TEST(Round, AddsBeforeRounding) {
  const std::vector<float> x = random_values(37, 90), y = random_values(37, 91);
  std::vector<float> wide = y;
  std::vector<bf16> narrow = testing::rounded<bf16>(y);
  const std::vector<bf16> before = narrow;
  add_rounded(x.data(), x.size(), wide.data());
  add_rounded(x.data(), x.size(), narrow.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(wide[i], y[i] + x[i]);
    EXPECT_EQ(narrow[i].bits, to_bf16(to_float(before[i]) + x[i]).bits);
  }
}

}  // namespace
}  // namespace nibblecast
