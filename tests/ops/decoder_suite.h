// tests/ops/decoder_suite.h - norms of every kind, turned heads, activations, routers and biases, on whatever
// they run, stay within the references' bounds and near what transformers' own modules make.
//
// A backend gives every op for many rows at once, on host memory:
//   set_up()                                                             may skip the test
//   norm<T>(x, width, weight, or none, use, eps)                         -> Rows<T>
//   norm_and_turn_heads<T>(x, heads, width, norm or null, rope or null, positions, place)
//   spread_latent<T>(shape, expanded, shared)                            -> {keys, values}
//   activate<T>(activation, inputs, inner, weights, or none)             -> Activated<T>
//   route(router, logits, bias, or none)                                 -> Routed
//   add_bias<T>(x, bias)
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ops/activation.h"
#include "ops/amax.h"
#include "ops/golden.h"
#include "ops/heads.h"
#include "ops/latent_heads.h"
#include "ops/rope_table.h"
#include "ops/router.h"
#include "ops/suites.h"

namespace nibblecast::testing {

// Half a unit for each rounding of T, and FP32 sums and products before it.
template <class T>
float rounding(float value, int roundings = 1) {
  return static_cast<float>(roundings) * unit<T>(value) + 4 * unit<float>(value);
}

template <class Where>
class Decoder : public ::testing::Test {
 protected:
  using Backend = typename Where::Backend;
  using T = typename Where::Element;

  void SetUp() override { Backend::set_up(); }

  template <class From>
  static void expect_norm(size_t width, NormWeight use) {
    constexpr size_t kRows = 5;
    const auto x = rounded<From>(random_values(kRows * width, 2, 5));
    const std::vector<float> weight = random_values(width, 3);
    const Rows<T> found = Backend::template norm<T>(x, width, weight, use, 1e-6f);
    std::vector<T> expected(width);
    for (size_t row = 0; row < kRows; ++row) {
      rmsnorm_ref(x.data() + row * width, width, weight.data(), 1e-6f, expected.data(), use);
      for (size_t i = 0; i < width; ++i) {
        const float value = to_float(expected[i]);
        ASSERT_TRUE(std::abs(to_float(found.values[row * width + i]) - value) <= rounding<T>(value, 2))
            << width << " " << row << " " << i << ": " << to_float(found.values[row * width + i]) << ", not "
            << value;
      }
    }
    EXPECT_EQ(found.seen, amax(found.values.data(), found.values.size()));
  }

  struct HeadsCase {
    size_t heads, width, dims;  // dims 0: no RoPE
    RopePairing pairing;
    bool normed;
    RopePlace place = RopePlace::kFirst;
  };

  // By the formulas, in double.
  template <class From>
  static void expect_heads(const HeadsCase& c, NormWeight use) {
    const std::vector<uint32_t> positions = {77, 0, 3, 99, 12};
    const RopeSpec spec{.dims = c.dims, .pairing = c.pairing};
    const Rope rope = make_rope(spec, 100);
    const std::vector<float> weight = random_values(c.width, 32);
    const HeadNorm norm{weight.data(), use, 1e-6f};
    const auto x = rounded<From>(random_values(positions.size() * c.heads * c.width, 31, 2));
    const std::vector<T> found = Backend::template norm_and_turn_heads<T>(
        x, c.heads, c.width, c.normed ? &norm : nullptr, c.dims == 0 ? nullptr : &rope, positions, c.place);
    for (size_t head = 0; head < positions.size() * c.heads; ++head) {
      expect_head(c, use, rope, weight, x.data() + head * c.width, positions[head / c.heads],
                  found.data() + head * c.width);
    }
  }

  template <class From>
  static std::vector<float> normed_head(const HeadsCase& c, NormWeight use, const std::vector<float>& weight,
                                        const From* x) {
    std::vector<float> head(c.width);
    if (!c.normed) {
      for (size_t i = 0; i < c.width; ++i) head[i] = to_float(x[i]);
    } else if (use == NormWeight::kRoundedTimes) {
      std::vector<T> own(c.width);
      rmsnorm_ref(x, c.width, weight.data(), 1e-6f, own.data(), use);
      for (size_t i = 0; i < c.width; ++i) head[i] = to_float(own[i]);
    } else {
      rmsnorm_ref(x, c.width, weight.data(), 1e-6f, head.data(), use);
    }
    return head;
  }

  template <class From>
  static void expect_head(const HeadsCase& c, NormWeight use, const Rope& rope,
                          const std::vector<float>& weight, const From* x, size_t position, const T* found) {
    const std::vector<float> normed = normed_head(c, use, weight, x);
    const size_t pairs = c.dims / 2;
    const bool halves = c.pairing == RopePairing::kHalves;
    const size_t begin = c.place == RopePlace::kLast ? c.width - c.dims : 0;
    for (size_t i = 0; i < c.width; ++i) {
      double expected = normed[i], size = std::abs(expected);
      if (i >= begin && i < begin + c.dims) {
        const size_t at = i - begin, pair = halves ? at % pairs : at / 2;
        const size_t first = begin + (halves ? pair : 2 * pair);
        const Rope::Turn turn = rope.turns()[position * pairs + pair];
        const double a = normed[first], b = normed[halves ? first + pairs : first + 1];
        expected = i == first ? a * double{turn.cos} - b * double{turn.sin}
                              : a * double{turn.sin} + b * double{turn.cos};
        size = std::abs(a) + std::abs(b);  // what cancels keeps the error of its terms
      }
      const float value = static_cast<float>(expected);
      // A norm that rounds may do so to the number beside.
      const float inner = c.normed && use == NormWeight::kRoundedTimes
                              ? 2 * unit<T>(static_cast<float>(size))
                              : 2 * unit<float>(static_cast<float>(size));
      ASSERT_TRUE(std::abs(to_float(found[i]) - value) <= inner + rounding<T>(value))
          << c.heads << " heads of " << c.width << ", " << c.dims << " turned, channel " << i << ": "
          << to_float(found[i]) << ", not " << value;
    }
  }

  static void expect_activated(const Activation& activation, size_t inner,
                               const std::vector<float>& weights) {
    constexpr size_t kRows = 3;
    const size_t width = activation.gated() ? 2 * inner : inner;
    std::vector<float> inputs = random_values(kRows * width, 4, 8);
    if (inner >= 3) inputs[0] = 1000, inputs[1] = -1000, inputs[2] = -0.0f;
    const Activated<T> found = Backend::template activate<T>(activation, inputs, inner, weights);
    std::vector<float> expected(kRows * inner);
    for (size_t row = 0; row < kRows; ++row) {
      const float *gate = inputs.data() + row * width, *up = gate + width - inner;
      activate_ref(activation, gate, up, inner, expected.data() + row * inner);
      const float weight = weights.empty() ? 1 : weights[row];
      for (size_t i = 0; i < inner; ++i) {
        const float value = weight * expected[row * inner + i];
        // The reference's own 1 + tanh loses what is small beside 1; the exponent's error grows with it.
        const float around = 1e-5f * std::abs(weight * up[i]) + 1e-5f * std::abs(value);
        ASSERT_TRUE(std::abs(to_float(found.out[row * inner + i]) - value) <= around + rounding<T>(value))
            << inner << " " << row << " " << i << ": " << to_float(found.out[row * inner + i]) << ", not "
            << value;
      }
    }
    EXPECT_EQ(found.seen.weighted, amax(found.out.data(), found.out.size()));
    const float largest = amax(expected.data(), expected.size());
    EXPECT_NEAR(found.seen.unweighted, largest, 1e-5f * largest + unit<T>(largest));
  }

  // In double. `chosen` by the scores of the header; where two are nearer than their rounding, either.
  static void expect_routed(const RouterSpec& router, const std::vector<float>& bias, unsigned seed) {
    constexpr size_t kTokens = 17;
    const std::vector<float> logits = random_values(kTokens * router.experts, seed, 3);
    const Routed found = Backend::route(router, logits, bias);
    EXPECT_FALSE(found.nan);
    for (size_t token = 0; token < kTokens; ++token) {
      expect_token_routed(router, bias, logits.data() + token * router.experts,
                          found.chosen.data() + token * router.top,
                          found.weights.data() + token * router.top);
    }
  }

  static std::vector<double> scores_of(RouterScore score, const std::vector<double>& logits) {
    std::vector<double> scores;
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit);
    for (const double logit : logits) {
      if (score == RouterScore::kSoftmax) scores.push_back(std::exp(logit) / sum);
      if (score == RouterScore::kSigmoid) scores.push_back(1 / (1 + std::exp(-logit)));
      if (score == RouterScore::kSqrtSoftplus) scores.push_back(std::sqrt(std::log1p(std::exp(logit))));
    }
    return scores;
  }

  // The experts of the best groups.
  static std::set<int32_t> candidates(const RouterSpec& router, const std::vector<double>& choices) {
    const size_t size = router.experts / router.groups;
    std::vector<std::pair<double, size_t>> groups;
    for (size_t group = 0; group < router.groups; ++group) {
      std::vector<double> own(choices.begin() + static_cast<ptrdiff_t>(group * size),
                              choices.begin() + static_cast<ptrdiff_t>((group + 1) * size));
      std::sort(own.begin(), own.end(), std::greater<>());
      groups.emplace_back(router.groups == 1 ? 0.0 : -(own[0] + own[1]), group);
    }
    std::sort(groups.begin(), groups.end());
    std::set<int32_t> result;
    for (size_t i = 0; i < router.top_groups * size; ++i)
      result.insert(static_cast<int32_t>(groups[i / size].second * size + i % size));
    return result;
  }

  static void expect_token_routed(const RouterSpec& router, const std::vector<float>& bias,
                                  const float* logits, const int32_t* chosen, const float* weights) {
    const std::vector<double> all(logits, logits + router.experts);
    std::vector<double> scores = router.score_chosen ? all : scores_of(router.score, all), choices = scores;
    for (size_t i = 0; i < bias.size(); ++i) choices[i] += double{bias[i]};
    const std::set<int32_t> open = candidates(router, choices);
    std::vector<double> best, own;
    for (const int32_t expert : open) best.push_back(choices[static_cast<size_t>(expert)]);
    std::sort(best.begin(), best.end(), std::greater<>());
    for (size_t i = 0; i < router.top; ++i) {
      ASSERT_TRUE(open.contains(chosen[i])) << chosen[i];
      ASSERT_EQ(std::count(chosen, chosen + router.top, chosen[i]), 1);
      ASSERT_NEAR(choices[static_cast<size_t>(chosen[i])], best[i], 2e-6) << i;
      own.push_back(scores[static_cast<size_t>(chosen[i])]);
    }
    if (router.score_chosen) own = scores_of(router.score, own);
    double sum = double{router.eps};
    for (const double score : own) sum += score;
    for (size_t i = 0; i < router.top; ++i) {
      const double weight = own[i] / (router.renormalize ? sum : 1.0) * double{router.scale};
      ASSERT_NEAR(weights[i], weight, 3e-6 * weight + 1e-12) << i;
    }
  }
};

TYPED_TEST_SUITE_P(Decoder);

inline constexpr NormWeight kNormWeights[] = {NormWeight::kTimes, NormWeight::kRoundedTimes,
                                              NormWeight::kPlusOne};

TYPED_TEST_P(Decoder, NormsMatchReference) {
  for (const size_t width : {1, 17, 64, 128, 1000, 5120}) {
    for (const NormWeight use : kNormWeights) {
      TestFixture::template expect_norm<typename TestFixture::T>(width, use);
      TestFixture::template expect_norm<float>(width, use);
    }
  }
}

TYPED_TEST_P(Decoder, HeadsMatchReference) {
  using Case = typename TestFixture::HeadsCase;
  constexpr RopePairing kHalves = RopePairing::kHalves, kInterleaved = RopePairing::kInterleaved;
  const Case cases[] = {{8, 128, 128, kHalves, true},
                        {3, 64, 64, kHalves, false},
                        {5, 96, 48, kHalves, true},
                        {2, 80, 20, kHalves, false},
                        {4, 256, 64, kInterleaved, true},
                        {1, 64, 64, kInterleaved, false},
                        {7, 33, 22, kInterleaved, true},
                        {6, 128, 0, kHalves, true},
                        {2, 512, 512, kHalves, true},
                        {3, 7, 6, kHalves, true},
                        {1, 1030, 128, kHalves, true},
                        {4, 192, 64, kInterleaved, false, RopePlace::kLast},
                        {3, 40, 16, kHalves, true, RopePlace::kLast},
                        {1, 64, 64, kInterleaved, false, RopePlace::kLast}};
  for (const Case& c : cases) {
    for (const NormWeight use : kNormWeights) {
      TestFixture::template expect_heads<typename TestFixture::T>(c, use);
      TestFixture::template expect_heads<float>(c, use);
      if (this->HasFatalFailure()) return;
    }
  }
}

// Each number goes to one place, rounded once.
TYPED_TEST_P(Decoder, SpreadsLatents) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const LatentHeads shape :
       {LatentHeads{4, 128, 64, 128}, LatentHeads{3, 24, 16, 40}, LatentHeads{1, 7, 1, 5}}) {
    constexpr size_t kTokens = 5;
    const std::vector<float> expanded = random_values(kTokens * shape.heads * shape.expanded_width(), 41);
    const auto shared = rounded<Value>(random_values(kTokens * shape.shared, 42));
    const auto [keys, values] = Ops::template spread_latent<Value>(shape, expanded, shared);
    ASSERT_EQ(keys.size(), kTokens * shape.heads * shape.key_width());
    for (size_t head = 0; head < kTokens * shape.heads; ++head) {
      const float* const from = expanded.data() + head * shape.expanded_width();
      const Value *const key = keys.data() + head * shape.key_width(),
                         *const value = values.data() + head * shape.value,
                         *const turned = shared.data() + head / shape.heads * shape.shared;
      for (size_t i = 0; i < shape.key; ++i)
        ASSERT_EQ(to_float(key[i]), to_float(from_float<Value>(from[i]))) << head << " " << i;
      for (size_t i = 0; i < shape.shared; ++i)
        ASSERT_EQ(to_float(key[shape.key + i]), to_float(turned[i])) << head << " " << i;
      for (size_t i = 0; i < shape.value; ++i)
        ASSERT_EQ(to_float(value[i]), to_float(from_float<Value>(from[shape.key + i]))) << head << " " << i;
    }
  }
}

TYPED_TEST_P(Decoder, ActivationsMatchReference) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  using enum ActivationKind;
  for (const ActivationKind kind : {kSilu, kGeluTanh, kRelu2}) {
    for (const size_t inner : {1, 17, 64, 1000, 3072}) {
      for (const float limit : {0.0f, 7.0f}) {
        TestFixture::expect_activated({kind, limit}, inner, {});
        TestFixture::expect_activated({kind, limit}, inner, {0.5f, 0.25f, 2});
      }
    }
    const std::vector<float> inputs = kind == kRelu2 ? std::vector<float>{NAN} : std::vector<float>{1, NAN};
    const Activated<Value> found = Ops::template activate<Value>({kind, 0}, inputs, 1, {});
    EXPECT_TRUE(std::isnan(found.seen.unweighted));
    EXPECT_TRUE(std::isnan(to_float(found.out[0])));
  }
}

TYPED_TEST_P(Decoder, RoutersMatchTheirFormulas) {
  using enum RouterScore;
  unsigned seed = 100;
  for (const RouterScore score : {kSqrtSoftplus, kSigmoid, kSoftmax}) {
    for (const size_t experts : {8, 60, 128, 256, 384, 512, 1024}) {
      for (const bool renormalize : {true, false}) {
        const RouterSpec router{.experts = experts,
                                .top = 8,
                                .score = score,
                                .renormalize = renormalize,
                                .eps = renormalize ? 1e-20f : 0,
                                .scale = 2.5f};
        TestFixture::expect_routed(router, {}, ++seed);
        const std::vector<float> bias = random_values(experts, ++seed, 0.3f);
        TestFixture::expect_routed(router, bias, ++seed);
        RouterSpec after = router;
        after.score_chosen = true;
        TestFixture::expect_routed(after, {}, ++seed);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

TYPED_TEST_P(Decoder, RoutersChooseGroupsFirst) {
  unsigned seed = 200;
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    struct Case {
      size_t experts, groups, top_groups, top;
    };
    for (const Case& c :
         {Case{256, 8, 4, 8}, {160, 8, 3, 6}, {16, 4, 2, 4}, {64, 32, 8, 16}, {12, 2, 1, 6}}) {
      const RouterSpec router{.experts = c.experts,
                              .top = c.top,
                              .score = score,
                              .groups = c.groups,
                              .top_groups = c.top_groups,
                              .eps = 1e-20f};
      TestFixture::expect_routed(router, {}, ++seed);
      const std::vector<float> bias = random_values(c.experts, ++seed, 0.3f);
      TestFixture::expect_routed(router, bias, ++seed);
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST_P(Decoder, RoutersTakeTheLowerOfEqualExperts) {
  using Ops = typename TestFixture::Backend;
  const std::vector<float> logits = {1, -0.0f, 2, 0, 2, 1, 0, 1};
  RouterSpec router{.experts = 8, .top = 6, .score = RouterScore::kSoftmax, .score_chosen = true};
  const std::vector<int32_t> ascending = {2, 4, 0, 5, 7, 1};
  EXPECT_EQ(Ops::route(router, logits, {}).chosen, ascending);
  router.score_chosen = false;
  EXPECT_EQ(Ops::route(router, logits, {}).chosen, ascending);
  router = {.experts = 8, .top = 4, .score = RouterScore::kSigmoid, .groups = 4, .top_groups = 2};
  EXPECT_EQ(Ops::route(router, std::vector<float>(8, 0.5f), {}).chosen, (std::vector<int32_t>{0, 1, 2, 3}));
}

TYPED_TEST_P(Decoder, RoutersReportNaN) {
  using Ops = typename TestFixture::Backend;
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    for (const bool score_chosen : {false, true}) {
      const RouterSpec router{.experts = 4, .top = 2, .score = score, .score_chosen = score_chosen};
      EXPECT_TRUE(Ops::route(router, {0, NAN, 1, 2}, {}).nan);
      EXPECT_FALSE(Ops::route(router, {0, -kInfinity, 1, 2}, {}).nan);
    }
  }
  // Scores of which none is left to divide by.
  const RouterSpec router{.experts = 4, .top = 2, .score = RouterScore::kSoftmax};
  EXPECT_TRUE(Ops::route(router, std::vector<float>(4, -kInfinity), {}).nan);
}

TYPED_TEST_P(Decoder, V4IsOneRouterOfMany) {
  using Ops = typename TestFixture::Backend;
  const size_t tokens = 9, experts = 256, top = 6;
  const std::vector<float> logits = random_values(tokens * experts, 41, 4), bias = random_values(experts, 42);
  const Routed one = Ops::route({.experts = experts, .top = top, .scale = 2.5f}, logits, bias);
  std::vector<float> scores(experts), weights(top);
  std::vector<int32_t> chosen(top);
  for (size_t token = 0; token < tokens; ++token) {
    router_scores(logits.data() + token * experts, experts, scores.data());
    ASSERT_TRUE(choose_experts(scores.data(), bias.data(), experts, top, chosen.data()));
    routing_weights(scores.data(), chosen.data(), top, 2.5f, weights.data());
    EXPECT_EQ(rows_of(one.chosen, top, token, 1), chosen);
    for (size_t i = 0; i < top; ++i)
      EXPECT_NEAR(one.weights[token * top + i], weights[i], 2e-6f * weights[i]);
  }
}

TYPED_TEST_P(Decoder, AddsBiasBeforeRounding) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const size_t width : {1, 33, 64, 1000, 5120}) {
    const std::vector<float> x = random_values(3 * width, 51), bias = random_values(width, 52);
    const std::vector<Value> found = Ops::template add_bias<Value>(x, bias);
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(to_float(found[i]), to_float(from_float<Value>(x[i] + bias[i % width]))) << i;
  }
}

TYPED_TEST_P(Decoder, NormsAreTransformers) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const Json& c : decoder_golden()["norm"]) {
    if (c["bf16"].get<bool>() != (sizeof(Value) == 2)) continue;
    const std::string use = c["use"];
    const NormWeight kind = use == "times"      ? NormWeight::kTimes
                            : use == "plus_one" ? NormWeight::kPlusOne
                                                : NormWeight::kRoundedTimes;
    const Rows<Value> found = Ops::template norm<Value>(rounded<Value>(floats(c["x"])), c["width"],
                                                        floats(c["weight"]), kind, c["eps"]);
    expect_golden<Value>(found.values, floats(c["y"]), 0, use);
  }
}

// Modules of FP32, so BF16 differs by its roundings.
TYPED_TEST_P(Decoder, TurnedHeadsAreTransformers) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  for (const Json& c : decoder_golden()["heads"]) {
    const std::vector<float> weight = floats(c["weight"]);
    const HeadNorm norm{weight.data(), NormWeight::kTimes, c["eps"]};
    const RopePairing pairing = c["pairing"] == "halves" ? RopePairing::kHalves : RopePairing::kInterleaved;
    const Rope rope = make_rope({.dims = c["dims"], .pairing = pairing}, c["tokens"]);
    std::vector<uint32_t> positions(c["tokens"].get<size_t>());
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<Value> found = Ops::template norm_and_turn_heads<Value>(
        floats(c["x"]), c["heads"], c["width"], weight.empty() ? nullptr : &norm, &rope, positions,
        RopePlace::kFirst);
    expect_golden<Value>(found, floats(c["y"]), 2e-6f, c["pairing"]);
  }
}

TYPED_TEST_P(Decoder, RoutersAreTransformers) {
  using Ops = typename TestFixture::Backend;
  for (const Json& c : decoder_golden()["router"]) {
    const Json& spec = c["spec"];
    const RouterSpec router{
        .experts = spec["experts"],
        .top = spec["top"],
        .score = spec["score"] == "sigmoid" ? RouterScore::kSigmoid : RouterScore::kSoftmax,
        .score_chosen = spec.value("score_chosen", false),
        .groups = spec["groups"],
        .top_groups = spec["top_groups"],
        .renormalize = spec.value("renormalize", true),
        .eps = spec.value("eps", 0.0f),
        .scale = spec["scale"]};
    const Routed found = Ops::route(router, floats(c["logits"]), floats(c["bias"]));
    std::vector<int32_t> chosen;
    for (const Json& token : c["chosen"])
      for (const Json& expert : token) chosen.push_back(expert);
    EXPECT_EQ(found.chosen, chosen) << c["name"];
    expect_golden<float>(found.weights, floats(c["weights"]), 1e-6f, c["name"]);
  }
}

TYPED_TEST_P(Decoder, ActivationsAreTransformers) {
  using Ops = typename TestFixture::Backend;
  using Value = typename TestFixture::T;
  const Json golden = decoder_golden()["activation"];
  const std::vector<float> gate = floats(golden["gate"]), up = floats(golden["up"]);
  std::vector<float> both = gate;
  both.insert(both.end(), up.begin(), up.end());
  using enum ActivationKind;
  const auto expect = [&](ActivationKind kind, const char* name, const std::vector<float>& inputs) {
    const auto found = Ops::template activate<Value>({kind, 0}, inputs, gate.size(), {});
    expect_golden<Value>(found.out, floats(golden[name]), 2e-6f, name);
  };
  expect(kSilu, "silu", both);
  expect(kGeluTanh, "gelu_tanh", both);
  expect(kRelu2, "relu2", gate);
}

REGISTER_TYPED_TEST_SUITE_P(Decoder, NormsMatchReference, HeadsMatchReference, SpreadsLatents,
                            ActivationsMatchReference, RoutersMatchTheirFormulas, RoutersChooseGroupsFirst,
                            RoutersTakeTheLowerOfEqualExperts, RoutersReportNaN, V4IsOneRouterOfMany,
                            AddsBiasBeforeRounding, NormsAreTransformers, TurnedHeadsAreTransformers,
                            RoutersAreTransformers, ActivationsAreTransformers);

}  // namespace nibblecast::testing
