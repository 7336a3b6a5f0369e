#include "formats/nvfp4_quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "formats/channel_weights.h"
#include "formats/isa_test.h"
#include "formats/nvfp4_quantize_suite.h"

namespace nibblecast {
namespace {

using testing::EncodeBackend;
using testing::Nvfp4Quantize;
using testing::random_weight;
using testing::Weight;

template <class T>
void encode(WeightMethod method, float amax, const T* values, size_t rows, size_t cols, uint8_t* codes,
            uint8_t* block_scales, RowLoss* losses) {
  Nvfp4Quantizer(method, amax).encode(values, rows, cols, codes, block_scales, losses);
}

std::vector<EncodeBackend> every_isa() {
  std::vector<EncodeBackend> backends;
  for (const CpuIsa isa : testing::available_isas()) {
    const std::string name(cpu_isa_name(isa));
    backends.push_back({name, [name] { set_cpu_isa(name); }, encode<bf16>, encode<float>});
  }
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Isa, Nvfp4Quantize, ::testing::ValuesIn(every_isa()),
                         [](const auto& backend) { return backend.param.name; });

// What the methods mse and wmse choose, by as few candidates as can win, against all of them.
class Nvfp4Sweep : public testing::IsaTest {
 protected:
  using Weights = std::vector<float>;

  template <class T>
  static testing::Encoded made(const testing::WeightOf<T>& weight, const Weights& channels, float amax,
                               bool reference) {
    testing::Encoded encoded(weight);
    const Nvfp4Quantizer quantizer(channels.empty() ? WeightMethod::kMse : WeightMethod::kWmse, amax);
    const auto encode = reference ? &Nvfp4Quantizer::encode_ref<T> : &Nvfp4Quantizer::encode<T>;
    (quantizer.*encode)(weight.values.data(), weight.rows, weight.cols, encoded.codes.data(),
                        encoded.scales.data(), encoded.losses.data(),
                        channels.empty() ? nullptr : channels.data());
    return encoded;
  }

  template <class T>
  static void expect_all_candidates(const testing::WeightOf<T>& weight, const Weights& channels, float amax) {
    const testing::Encoded expected = made(weight, channels, amax, true),
                           found = made(weight, channels, amax, false);
    const size_t block =
        testing::first_difference(expected.scales.data(), found.scales.data(), found.scales.size());
    EXPECT_EQ(block, found.scales.size()) << "amax " << amax << ": scale of block";
    EXPECT_TRUE(expected == found) << "amax " << amax;
  }

  // exp2 of what is uniform in +-octaves.
  static Weights channels(size_t cols, uint32_t seed, float octaves) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> exponent(-octaves, octaves);
    Weights weights(cols);
    for (float& weight : weights) weight = std::exp2(exponent(random));
    return weights;
  }
  // Plain, all equal, mild, and of very different size.
  static std::vector<Weights> kinds_of_channels(size_t cols) {
    Weights outlier(cols, 0.01f);
    outlier[cols / 3] = 1e8f;
    return {{}, Weights(cols, 1), channels(cols, 21, 2), channels(cols, 22, 12), outlier};
  }

  template <class T>
  static void expect_all_candidates_of_kinds(const testing::WeightOf<T>& weight, float amax) {
    for (const Weights& kind : kinds_of_channels(weight.cols)) expect_all_candidates(weight, kind, amax);
  }

  // Blocks to try: a number in NIBBLECAST_SWEEP_BLOCKS, or what takes a second.
  static size_t blocks() {
    const char* const asked = std::getenv("NIBBLECAST_SWEEP_BLOCKS");
    return asked == nullptr ? 6000 : std::strtoul(asked, nullptr, 10);
  }
  template <class T>
  static void expect_all_candidates_at_random() {
    constexpr size_t kCols = 480;
    const size_t rows = blocks() * 16 / kCols / 4 + 1;
    for (const float octaves : {0.0f, 3.0f, 12.0f, 60.0f}) {
      const auto weight = random_weight<T>(rows, kCols, 31 + static_cast<uint32_t>(octaves), octaves);
      const std::vector<Weights> kinds = {{}, channels(kCols, 5, 1), channels(kCols, 6, 8)};
      for (const Weights& kind : kinds) expect_all_candidates(weight, kind, weight.amax());
    }
  }
};

TEST_P(Nvfp4Sweep, IsThatOfAllCandidatesAtRandom) {
  expect_all_candidates_at_random<bf16>();
  expect_all_candidates_at_random<float>();
}

TEST_P(Nvfp4Sweep, IsThatOfAllCandidatesUnderEveryAmax) {
  for (const float amax : {0x1.fffffep127f, 0x1.02p60f, 1.0f, 0.4375f, 0x1p-20f, 0x1p-21f, 3e-39f}) {
    testing::WideWeight wide = {0, 32, {}};
    const uint32_t last = std::bit_cast<uint32_t>(amax);
    for (uint32_t bits = 0; bits < last - last / 150; bits += std::max(last / 150, 1u)) {
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t magnitude = i % 16 == 3 ? bits : bits - std::min(bits, 1234567 * i * (i % 3));
        wide.values.push_back(std::bit_cast<float>(magnitude | (i % 2) << 31));
      }
      ++wide.rows;
    }
    Weight narrow = {wide.rows, wide.cols, {}};
    for (const float value : wide.values)
      narrow.values.push_back({static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)});
    expect_all_candidates_of_kinds(wide, amax);
    expect_all_candidates_of_kinds(narrow, amax);
  }
}

// Zeros, one value, equal values, values on the grid of several scales, and on the middle between its points.
TEST_P(Nvfp4Sweep, IsThatOfAllCandidatesAtTiesAndExtremes) {
  constexpr float kNumbers[] = {0, 0.25f, 0.5f, 0.75f, 1, 1.25f, 1.5f, 1.75f, 2, 2.5f, 3, 3.5f, 4, 5, 6};
  std::mt19937 random(8);
  testing::WideWeight wide = {400, 32, {}};
  for (size_t block = 0; block < 800; ++block) {
    const float unit =
        std::ldexp(448.0f / static_cast<float>(1 + random() % 448), -static_cast<int>(random() % 14));
    const size_t kinds = 1 + random() % 15, alone = random() % 3 == 0 ? random() % 16 : 16;
    for (size_t i = 0; i < 16; ++i) {
      const float value = kNumbers[14 - random() % kinds] * unit;
      wide.values.push_back(alone < 16 && i != alone ? 0 : random() % 2 == 0 ? value : -value);
    }
  }
  Weight narrow = {wide.rows, wide.cols, {}};
  for (const float value : wide.values) narrow.values.push_back(to_bf16(value));
  for (const float above : {1.0f, 1.3125f, 448.0f}) {
    expect_all_candidates_of_kinds(wide, wide.amax() * above);
    expect_all_candidates_of_kinds(narrow, narrow.amax() * above);
  }
}

TEST_P(Nvfp4Sweep, WeightsOfOneAreMse) {
  const Weight weight = random_weight(4, 320, 9, 6);
  EXPECT_TRUE(made(weight, {}, weight.amax(), false) == made(weight, Weights(320, 1), weight.amax(), false));
}

// Starved experts, channels that are 0, one outlier, constant inputs: finite, and on the loss that it was
// given at least as good as mse.
TEST_P(Nvfp4Sweep, NoWorseThanMseOnItsOwnLoss) {
  constexpr size_t kCols = 256;
  const Weight weight = random_weight(16, kCols, 10, 3);
  const std::vector<float> zeros(kCols), constant(kCols, 7), prior = channels(kCols, 11, 4);
  std::vector<float> outlier = channels(kCols, 12, 1), dead = channels(kCols, 13, 2);
  outlier[77] = 1e8f;  // a channel of 1e4
  std::fill(dead.begin() + 64, dead.begin() + 160, 0.0f);
  for (const std::vector<float>& moments :
       {zeros, constant, outlier, dead, with_prior(zeros, 0, prior), with_prior(dead, 3, prior)}) {
    const Weights weights = channel_weights(moments);
    for (const float each : weights) ASSERT_TRUE(std::isfinite(each) && each > 0);
    const auto loss = [&](const testing::Encoded& encoded) {
      std::vector<float> decoded(weight.values.size());
      dequantize_nvfp4_ref({encoded.codes.data(), encoded.scales.data(),
                            nvfp4_scale_2(WeightMethod::kMse, weight.amax()), weight.rows, kCols},
                           0, weight.rows, decoded.data(), kCols);
      double sum = 0;
      for (size_t i = 0; i < decoded.size(); ++i) {
        const double error = to_float(weight.values[i]) - double{decoded[i]};
        sum += weights[i % kCols] * error * error;
      }
      return sum;
    };
    const double plain = loss(made(weight, {}, weight.amax(), false)),
                 weighted = loss(made(weight, weights, weight.amax(), false));
    EXPECT_LE(weighted, plain * (1 + 1e-6));  // chosen by float sums
    EXPECT_TRUE(made(weight, weights, weight.amax(), false) == made(weight, weights, weight.amax(), true));
  }
}

INSTANTIATE_FOR_EVERY_ISA(Nvfp4Sweep);

TEST(ChannelWeights, AreTheMomentsAboveAFloor) {
  const std::vector<float> weights = channel_weights(std::vector<float>{0, 1, 3, 0});
  EXPECT_EQ(weights, (std::vector<float>{0.01f, 1.01f, 3.01f, 0.01f}));
  EXPECT_EQ(channel_weights(std::vector<float>(3)), std::vector<float>(3, 1));
  EXPECT_EQ(channel_weights(std::vector<float>(3, 3e38f)), std::vector<float>(3, 1.01f));
}

TEST(ChannelWeights, OfAnExpertLeanOnItsLayersWhereItSawFewTokens) {
  const std::vector<float> own = {4, 0}, layer = {1, 2};
  EXPECT_EQ(with_prior(own, 0, layer), layer);
  EXPECT_EQ(with_prior(own, 256, layer), (std::vector<float>{2.5f, 1}));
  EXPECT_EQ(mean_of_experts(std::vector<float>{1, 2, 5, 6}, std::vector<int64_t>{3, 1}),
            (std::vector<float>{2, 3}));
  EXPECT_EQ(mean_of_experts(std::vector<float>{0, 0}, std::vector<int64_t>{0, 0}), std::vector<float>(1));
}

class Nvfp4MseTable : public testing::IsaTest {};

// It breaks the contract; the table has no row for it. Its own code and all other blocks are the reference's.
TEST_P(Nvfp4MseTable, AValueAboveTheAmaxHurtsItsBlockOnly) {
  Weight weight = random_weight(1, 64, 4, 2);
  const float amax = weight.amax();
  weight.values[9].bits = 0x7f7f;  // the largest finite one
  testing::Encoded found(weight);
  encode(WeightMethod::kMse, amax, weight.values.data(), 1, 64, found.codes.data(), found.scales.data(),
         nullptr);
  const testing::Encoded expected = testing::encode_ref(weight, WeightMethod::kMse, amax);
  EXPECT_EQ(found.codes[9 / 2] >> 4, expected.codes[9 / 2] >> 4);
  EXPECT_EQ(found.codes[9 / 2] >> 4, 7);  // 6
  for (size_t block = 1; block < 4; ++block) {
    EXPECT_EQ(found.scales[block], expected.scales[block]) << block;
    for (size_t i = block * 8; i < block * 8 + 8; ++i) EXPECT_EQ(found.codes[i], expected.codes[i]) << i;
  }
}

INSTANTIATE_FOR_EVERY_ISA(Nvfp4MseTable);

TEST(ScanAmax, FindsTheLargestMagnitudeAndTheFirstNonFinite) {
  Weight weight = random_weight(1, 100, 5, 3);
  float largest = 0;
  for (const bf16 value : weight.values) largest = std::max(largest, std::fabs(to_float(value)));
  EXPECT_EQ(weight.amax(), largest);
  weight.values[40].bits = 0xff80;
  weight.values[77].bits = 0x7fc0;
  AmaxScan scan = scan_amax(weight.values.data(), weight.values.size());
  EXPECT_EQ(scan.amax, largest);
  EXPECT_EQ(scan.non_finite, 40u);
  scan.merge({.amax = 1e9f, .non_finite = 3});
  EXPECT_EQ(scan.amax, 1e9f);
  EXPECT_EQ(scan.non_finite, 40u);
  EXPECT_EQ(scan_amax(weight.values.data(), 0).amax, 0);
}

TEST(ScanAmax, OfFloats) {
  std::vector<float> values = random_weight<float>(1, 100, 5, 3).values;
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  EXPECT_EQ(scan_amax(values.data(), values.size()).amax, largest);
  EXPECT_FALSE(scan_amax(values.data(), values.size()).non_finite);
  values[40] = -INFINITY;
  values[77] = NAN;
  EXPECT_EQ(scan_amax(values.data(), values.size()).amax, largest);
  EXPECT_EQ(scan_amax(values.data(), values.size()).non_finite, 40u);
}

}  // namespace
}  // namespace nibblecast
