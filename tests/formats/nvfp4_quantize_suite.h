// tests/formats/nvfp4_quantize_suite.h - what encodes NVFP4, on whatever it runs, gives the reference's bytes
// and sums.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/hex.h"
#include "formats/isa_test.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast::testing {

inline constexpr WeightMethod kMethods[] = {WeightMethod::kMax, WeightMethod::kMse,
                                            WeightMethod::kFourOverSix};

inline std::string method_name(WeightMethod method) {
  return method == WeightMethod::kMax ? "max" : method == WeightMethod::kMse ? "mse" : "four_over_six";
}

template <class T>
struct WeightOf {
  size_t rows = 0, cols = 0;
  std::vector<T> values;

  float amax() const { return scan_amax(values.data(), values.size()).amax; }
};
using Weight = WeightOf<bf16>;
using WideWeight = WeightOf<float>;

template <class T = bf16>
WeightOf<T> random_weight(size_t rows, size_t cols, uint32_t seed, float octaves) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> exponent(-octaves, 0);
  WeightOf<T> weight = {rows, cols, {}};
  for (size_t i = 0; i < rows * cols; ++i)
    weight.values.push_back(from_float<T>(normal(random) * std::exp2(exponent(random))));
  return weight;
}

struct Encoded {
  std::vector<uint8_t> codes, scales;
  std::vector<RowLoss> losses;
  template <class T>
  explicit Encoded(const WeightOf<T>& weight)
      : codes(weight.values.size() / 2, 0xcd), scales(weight.values.size() / 16, 0xcd), losses(weight.rows) {}
  bool operator==(const Encoded&) const = default;
};

template <class T>
Encoded encode_ref(const WeightOf<T>& weight, WeightMethod method, float amax) {
  Encoded encoded(weight);
  Nvfp4Quantizer(method, amax)
      .encode_ref(weight.values.data(), weight.rows, weight.cols, encoded.codes.data(), encoded.scales.data(),
                  encoded.losses.data());
  return encoded;
}

struct EncodeBackend {
  std::string name;
  std::function<void()> set_up;
  // As Nvfp4Quantizer(method, amax).encode, on host memory.
  std::function<void(WeightMethod method, float amax, const bf16* values, size_t rows, size_t cols,
                     uint8_t* codes, uint8_t* block_scales, RowLoss* losses)>
      encode;
  std::function<void(WeightMethod method, float amax, const float* values, size_t rows, size_t cols,
                     uint8_t* codes, uint8_t* block_scales, RowLoss* losses)>
      encode_wide;

  void run(WeightMethod method, float amax, const Weight& weight, Encoded& to) const {
    encode(method, amax, weight.values.data(), weight.rows, weight.cols, to.codes.data(), to.scales.data(),
           to.losses.data());
  }
  void run(WeightMethod method, float amax, const WideWeight& weight, Encoded& to) const {
    encode_wide(method, amax, weight.values.data(), weight.rows, weight.cols, to.codes.data(),
                to.scales.data(), to.losses.data());
  }
};

class Nvfp4Quantize : public ::testing::TestWithParam<EncodeBackend> {
 protected:
  using Bytes = std::vector<uint8_t>;

  void SetUp() override { GetParam().set_up(); }
  void TearDown() override { set_cpu_isa("auto"); }

  template <class T>
  Encoded encode(const WeightOf<T>& weight, WeightMethod method, float amax) const {
    Encoded encoded(weight);
    GetParam().run(method, amax, weight, encoded);
    return encoded;
  }

  template <class T>
  void expect_reference(const WeightOf<T>& weight, WeightMethod method, float amax) const {
    const Encoded expected = encode_ref(weight, method, amax), found = encode(weight, method, amax);
    const size_t block = first_difference(expected.scales.data(), found.scales.data(), found.scales.size());
    const size_t byte = first_difference(expected.codes.data(), found.codes.data(), found.codes.size());
    EXPECT_EQ(block, found.scales.size()) << method_name(method) << ", amax " << amax << ": scale of block";
    EXPECT_EQ(byte, found.codes.size()) << method_name(method) << ", amax " << amax << ": code byte";
    EXPECT_TRUE(expected.losses == found.losses) << method_name(method) << ", amax " << amax;
  }
};

TEST_P(Nvfp4Quantize, GivesModelOptsBytes) {
  const std::string file = std::string(NIBBLECAST_SOURCE_DIR) + "/tests/formats/golden/nvfp4_methods.json";
  const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  ASSERT_GT(golden["cases"].size(), 20u);
  for (const Json& expected : golden["cases"]) {
    const Weight weight = {expected["rows"], expected["cols"], bf16_from_hex(expected["values"])};
    const float amax = expected["amax"].get<float>();
    for (const WeightMethod method : kMethods) {
      SCOPED_TRACE(expected["name"].get<std::string>() + ", " + method_name(method));
      const Json& bytes = expected[method_name(method)];
      const uint32_t scale_2 = std::bit_cast<uint32_t>(nvfp4_scale_2(method, amax));
      EXPECT_EQ(from_hex(bytes["scale_2"]), Bytes({uint8_t(scale_2), uint8_t(scale_2 >> 8),
                                                   uint8_t(scale_2 >> 16), uint8_t(scale_2 >> 24)}));
      const Encoded encoded = encode(weight, method, amax);
      EXPECT_EQ(encoded.scales, from_hex(bytes["scales"]));
      EXPECT_EQ(encoded.codes, from_hex(bytes["codes"]));
      EXPECT_EQ(encoded, encode_ref(weight, method, amax));
    }
  }
}

TEST_P(Nvfp4Quantize, IsTheReferenceOnRandomWeights) {
  for (const float octaves : {0.0f, 4.0f, 30.0f}) {
    for (const float above : {1.0f, 1.0078125f, 40.0f}) {
      const Weight weight = random_weight(3, 16 * 300, 1, octaves);
      for (const WeightMethod method : kMethods) expect_reference(weight, method, weight.amax() * above);
    }
  }
}

TEST_P(Nvfp4Quantize, IsTheReferenceOnRandomFloats) {
  for (const float octaves : {0.0f, 4.0f, 30.0f, 100.0f}) {
    for (const float above : {1.0f, 1.0000001f, 40.0f}) {
      const WideWeight weight = random_weight<float>(3, 16 * 100, 11, octaves);
      for (const WeightMethod method : kMethods) expect_reference(weight, method, weight.amax() * above);
    }
  }
}

// Magnitudes of every size in blocks of like ones, under amaxes of every kind.
TEST_P(Nvfp4Quantize, IsTheReferenceAtFloatsOfEveryMagnitude) {
  for (const float amax : {0x1.fffffep127f, 0x1.02p60f, 1.0f, 0.4375001f, 0x1p-21f, 3e-39f, 0x1p-133f}) {
    WideWeight weight = {0, 16, {}};
    const uint32_t last = std::bit_cast<uint32_t>(amax);
    for (uint32_t bits = 0; bits <= last; bits += std::max(last / 700, 1u)) {
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t magnitude = i == 3 ? bits : bits - std::min(bits, 1234567 * i * (i % 3));
        weight.values.push_back(std::bit_cast<float>(magnitude | (i % 2) << 31));
      }
      ++weight.rows;
    }
    for (const WeightMethod method : kMethods) expect_reference(weight, method, amax);
  }
}

TEST_P(Nvfp4Quantize, NumbersOfBf16GiveTheSameAsFloats) {
  const Weight weight = random_weight(5, 16 * 40, 12, 5);
  WideWeight wide = {weight.rows, weight.cols, {}};
  for (const bf16 value : weight.values) wide.values.push_back(to_float(value));
  EXPECT_EQ(weight.amax(), wide.amax());
  for (const WeightMethod method : kMethods)
    EXPECT_EQ(encode(weight, method, weight.amax()), encode(wide, method, wide.amax()))
        << method_name(method);
}

// Each magnitude alone in a block, and as the largest of one, under amaxes of every kind.
TEST_P(Nvfp4Quantize, IsTheReferenceAtEveryMagnitude) {
  for (const float amax :
       {to_float(bf16{0x7f7f}), 0x1p100f, 0x1.02p60f, 0x1p60f, 1.0f, 0.4375f, 0x1p-21f, 3e-39f, 0x1p-133f}) {
    Weight weight = {0, 16, {}};
    for (uint32_t bits = 0; to_float(bf16{static_cast<uint16_t>(bits)}) <= amax && bits < 0x7f80;
         bits += 23) {
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t magnitude = i == 3 ? bits : bits - std::min(bits, 19 * i * (bits % 3));
        weight.values.push_back({static_cast<uint16_t>(magnitude | (i % 2) << 15)});
      }
      ++weight.rows;
    }
    for (const WeightMethod method : kMethods) expect_reference(weight, method, amax);
  }
}

// Blocks that several scales represent without error, or with equal errors: the first must win.
TEST_P(Nvfp4Quantize, IsTheReferenceOnBlocksOfFewValues) {
  std::mt19937 random(7);
  constexpr float kNumbers[] = {0, 0, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  Weight weight = {300, 64, {}};
  for (size_t block = 0; block < 300 * 4; ++block) {
    const float unit =
        std::ldexp(1.0f + static_cast<float>(random() % 8) / 8, -static_cast<int>(random() % 18));
    const size_t kinds = 1 + random() % 10;
    for (size_t i = 0; i < 16; ++i) weight.values.push_back(to_bf16(kNumbers[9 - random() % kinds] * unit));
  }
  for (const float above : {1.0f, 1.3125f, 448.0f}) {
    for (const WeightMethod method : kMethods) expect_reference(weight, method, weight.amax() * above);
  }
}

TEST_P(Nvfp4Quantize, DoesNotDependOnTheDivisionOfRows) {
  const Weight weight = random_weight(7, 16 * 37, 2, 6);
  const float amax = weight.amax();
  for (const WeightMethod method : kMethods) {
    const Encoded whole = encode(weight, method, amax);
    Encoded pieces(weight);
    for (size_t row = 0, count; row < weight.rows; row += count) {
      count = std::min<size_t>(3, weight.rows - row);
      GetParam().encode(method, amax, weight.values.data() + row * weight.cols, count, weight.cols,
                        pieces.codes.data() + row * weight.cols / 2,
                        pieces.scales.data() + row * weight.cols / 16, pieces.losses.data() + row);
    }
    EXPECT_EQ(whole, pieces) << method_name(method);
    Encoded without_losses(weight);
    GetParam().encode(method, amax, weight.values.data(), weight.rows, weight.cols,
                      without_losses.codes.data(), without_losses.scales.data(), nullptr);
    EXPECT_EQ(whole.codes, without_losses.codes);
    EXPECT_EQ(whole.scales, without_losses.scales);
  }
}

TEST_P(Nvfp4Quantize, MakesPlainZerosOfAnAllZeroGroup) {
  Weight weight = {2, 32, std::vector<bf16>(64)};
  weight.values[5].bits = 0x8000;
  for (const WeightMethod method : kMethods) {
    EXPECT_EQ(encode(WideWeight{2, 32, std::vector<float>(64)}, method, 0), encode(weight, method, 0));
    EXPECT_EQ(nvfp4_scale_2(method, weight.amax()), 1.0f);
    const Encoded encoded = encode(weight, method, weight.amax());
    EXPECT_EQ(encoded.codes, Bytes(32, 0));
    EXPECT_EQ(encoded.scales, Bytes(4, 0x38));
    EXPECT_EQ(encoded.losses, std::vector<RowLoss>(2));
  }
}

TEST_P(Nvfp4Quantize, NothingOfNoRowsOrColumns) {
  for (const WeightMethod method : kMethods) {
    expect_reference(Weight{0, 32, {}}, method, 1);
    expect_reference(Weight{3, 0, {}}, method, 1);
    expect_reference(WideWeight{0, 32, {}}, method, 1);
  }
}

TEST_P(Nvfp4Quantize, ReportsTheLossOfWhatItWrites) {
  const Weight weight = random_weight(4, 256, 3, 2);
  double total[3] = {};
  for (const WeightMethod method : kMethods) {
    const Encoded encoded = encode(weight, method, weight.amax());
    const float scale_2 = nvfp4_scale_2(method, weight.amax());
    std::vector<float> decoded(weight.values.size());
    dequantize_nvfp4_ref({encoded.codes.data(), encoded.scales.data(), scale_2, 4, 256}, 0, 4, decoded.data(),
                         256);
    for (size_t row = 0; row < 4; ++row) {
      double error = 0, squares = 0;
      for (size_t i = row * 256; i < (row + 1) * 256; ++i) {
        const double value = to_float(weight.values[i]), difference = value - double{decoded[i]};
        error += difference * difference;
        squares += value * value;
      }
      // 256 positive terms in another order: within 256 roundings of 2^-53.
      EXPECT_NEAR(encoded.losses[row].squared_error, error, error * 0x1p-45);
      EXPECT_NEAR(encoded.losses[row].squares, squares, squares * 0x1p-45);
      total[static_cast<int>(method)] += error;
    }
  }
  EXPECT_LT(total[1], total[0]);  // mse searches the scales that max takes, among others
}

}  // namespace nibblecast::testing
