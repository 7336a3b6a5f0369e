#include "formats/nvfp4_quantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/hex.h"
#include "formats/isa_test.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::bf16_from_hex;
using testing::from_hex;
using Bytes = std::vector<uint8_t>;

constexpr WeightMethod kMethods[] = {WeightMethod::kMax, WeightMethod::kMse, WeightMethod::kFourOverSix};

std::string method_name(WeightMethod method) {
  return method == WeightMethod::kMax ? "max" : method == WeightMethod::kMse ? "mse" : "four_over_six";
}

struct Weight {
  size_t rows = 0, cols = 0;
  std::vector<bf16> values;

  float amax() const { return scan_amax(values.data(), values.size()).amax; }
};

struct Encoded {
  Bytes codes, scales;
  std::vector<RowLoss> losses;
  explicit Encoded(const Weight& weight)
      : codes(weight.values.size() / 2), scales(weight.values.size() / 16), losses(weight.rows) {}
  bool operator==(const Encoded&) const = default;
};

Encoded encode(const Weight& weight, const Nvfp4Quantizer& quantizer) {
  Encoded encoded(weight);
  quantizer.encode(weight.values.data(), weight.rows, weight.cols, encoded.codes.data(),
                   encoded.scales.data(), encoded.losses.data());
  return encoded;
}

Encoded encode_ref(const Weight& weight, const Nvfp4Quantizer& quantizer) {
  Encoded encoded(weight);
  quantizer.encode_ref(weight.values.data(), weight.rows, weight.cols, encoded.codes.data(),
                       encoded.scales.data(), encoded.losses.data());
  return encoded;
}

Weight random_weight(size_t rows, size_t cols, uint32_t seed, float octaves) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> exponent(-octaves, 0);
  Weight weight = {rows, cols, {}};
  for (size_t i = 0; i < rows * cols; ++i)
    weight.values.push_back(to_bf16(normal(random) * std::exp2(exponent(random))));
  return weight;
}

class Nvfp4Quantize : public testing::IsaTest {};

TEST_P(Nvfp4Quantize, GivesModelOptsBytes) {
  const std::string file = std::string(NIBBLECAST_SOURCE_DIR) + "/tests/formats/golden/nvfp4_methods.json";
  const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  ASSERT_GT(golden["cases"].size(), 20u);
  for (const Json& expected : golden["cases"]) {
    const Weight weight = {expected["rows"], expected["cols"], bf16_from_hex(expected["values"])};
    for (const WeightMethod method : kMethods) {
      SCOPED_TRACE(expected["name"].get<std::string>() + ", " + method_name(method));
      const Json& bytes = expected[method_name(method)];
      const Nvfp4Quantizer quantizer(method, expected["amax"].get<float>());
      const uint32_t scale_2 = std::bit_cast<uint32_t>(quantizer.scale_2());
      EXPECT_EQ(from_hex(bytes["scale_2"]), Bytes({uint8_t(scale_2), uint8_t(scale_2 >> 8),
                                                   uint8_t(scale_2 >> 16), uint8_t(scale_2 >> 24)}));
      const Encoded encoded = encode(weight, quantizer);
      EXPECT_EQ(encoded.scales, from_hex(bytes["scales"]));
      EXPECT_EQ(encoded.codes, from_hex(bytes["codes"]));
      EXPECT_EQ(encoded, encode_ref(weight, quantizer));
    }
  }
}

TEST_P(Nvfp4Quantize, IsTheReferenceOnRandomWeights) {
  for (const float octaves : {0.0f, 4.0f, 30.0f}) {
    for (const float above : {1.0f, 1.0078125f, 40.0f}) {
      const Weight weight = random_weight(3, 16 * 300, 1, octaves);
      for (const WeightMethod method : kMethods) {
        const Nvfp4Quantizer quantizer(method, weight.amax() * above);
        EXPECT_EQ(encode(weight, quantizer), encode_ref(weight, quantizer))
            << method_name(method) << ' ' << octaves << ' ' << above;
      }
    }
  }
}

// Each magnitude alone in a block, and as the largest of one, under amaxes of every kind.
TEST_P(Nvfp4Quantize, IsTheReferenceAtEveryMagnitude) {
  for (const float amax : {to_float(bf16{0x7f7f}), 1.0f, 0.4375f, 3e-39f, 0x1p-133f}) {
    Weight weight = {0, 16, {}};
    for (uint32_t bits = 0; to_float(bf16{static_cast<uint16_t>(bits)}) <= amax && bits < 0x7f80;
         bits += 23) {
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t magnitude = i == 3 ? bits : bits - std::min(bits, 19 * i * (bits % 3));
        weight.values.push_back({static_cast<uint16_t>(magnitude | (i % 2) << 15)});
      }
      ++weight.rows;
    }
    for (const WeightMethod method : kMethods) {
      const Nvfp4Quantizer quantizer(method, amax);
      EXPECT_EQ(encode(weight, quantizer), encode_ref(weight, quantizer))
          << method_name(method) << ' ' << amax;
    }
  }
}

TEST_P(Nvfp4Quantize, DoesNotDependOnTheDivisionOfRows) {
  const Weight weight = random_weight(7, 16 * 37, 2, 6);
  for (const WeightMethod method : kMethods) {
    const Nvfp4Quantizer quantizer(method, weight.amax());
    const Encoded whole = encode(weight, quantizer);
    Encoded pieces(weight);
    for (size_t row = 0, count; row < weight.rows; row += count) {
      count = std::min<size_t>(3, weight.rows - row);
      quantizer.encode(weight.values.data() + row * weight.cols, count, weight.cols,
                       pieces.codes.data() + row * weight.cols / 2,
                       pieces.scales.data() + row * weight.cols / 16, pieces.losses.data() + row);
    }
    EXPECT_EQ(whole, pieces) << method_name(method);
    Encoded without_losses(weight);
    quantizer.encode(weight.values.data(), weight.rows, weight.cols, without_losses.codes.data(),
                     without_losses.scales.data());
    EXPECT_EQ(whole.codes, without_losses.codes);
  }
}

TEST_P(Nvfp4Quantize, MakesPlainZerosOfAnAllZeroGroup) {
  Weight weight = {2, 32, std::vector<bf16>(64)};
  weight.values[5].bits = 0x8000;
  for (const WeightMethod method : kMethods) {
    const Nvfp4Quantizer quantizer(method, weight.amax());
    EXPECT_EQ(quantizer.scale_2(), 1.0f);
    const Encoded encoded = encode(weight, quantizer);
    EXPECT_EQ(encoded.codes, Bytes(32, 0));
    EXPECT_EQ(encoded.scales, Bytes(4, 0x38));
    EXPECT_EQ(encoded.losses, std::vector<RowLoss>(2));
  }
}

TEST_P(Nvfp4Quantize, ReportsTheLossOfWhatItWrites) {
  const Weight weight = random_weight(4, 256, 3, 2);
  double total[3] = {};
  for (const WeightMethod method : kMethods) {
    const Nvfp4Quantizer quantizer(method, weight.amax());
    const Encoded encoded = encode(weight, quantizer);
    std::vector<float> decoded(weight.values.size());
    dequantize_nvfp4_ref({encoded.codes.data(), encoded.scales.data(), quantizer.scale_2(), 4, 256}, 0, 4,
                         decoded.data(), 256);
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

TEST_P(Nvfp4Quantize, StaysInTheTableForValuesAboveTheAmax) {
  Weight weight = random_weight(1, 64, 4, 2);
  weight.values[9].bits = 0x7f7f;
  encode(weight, Nvfp4Quantizer(WeightMethod::kMse, 0.5f));
}

INSTANTIATE_FOR_EVERY_ISA(Nvfp4Quantize);

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
  EXPECT_EQ(scan_amax(nullptr, 0).amax, 0);
}

}  // namespace
}  // namespace nibblecast
