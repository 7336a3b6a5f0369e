// Every code of every small format, and the rounding of the encoders against a search for the nearest value.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "formats/bf16.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The magnitudes of E4M3 from its definition, in double.
std::vector<double> e4m3_magnitudes() {
  std::vector<double> values;
  for (int code = 0; code < 0x7f; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    values.push_back(exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
  }
  return values;
}

const std::vector<double> kE2m1Magnitudes = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

// The index of the value nearest to `magnitude`; between two equally near ones, the even index.
uint8_t nearest(const std::vector<double>& values, double magnitude) {
  size_t best = 0;
  for (size_t code = 1; code < values.size(); ++code) {
    const double distance = std::fabs(values[code] - magnitude), least = std::fabs(values[best] - magnitude);
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best);
}

// Every value, every middle of two, the floats beside those, and random ones up to `limit`.
std::vector<float> rounding_cases(const std::vector<double>& values, float limit) {
  std::vector<float> cases = {0.0f, std::numeric_limits<float>::denorm_min(),
                              std::numeric_limits<float>::min()};
  for (size_t code = 0; code + 1 < values.size(); ++code) {
    for (const double x : {values[code], (values[code] + values[code + 1]) / 2, values[code + 1]}) {
      const auto at = static_cast<float>(x);
      cases.insert(cases.end(),
                   {at, std::nextafter(at, 0.0f), std::min(limit, std::nextafter(at, kInfinity))});
    }
  }
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-14, std::log2(limit));
  for (int i = 0; i < 20000; ++i) cases.push_back(std::min(limit, std::exp2(exponent(random))));
  return cases;
}

TEST(E2m1, DecodesEveryCode) {
  for (int code = 0; code < 16; ++code) {
    const float value = decode_e2m1(static_cast<uint8_t>(code));
    EXPECT_EQ(std::fabs(value), kE2m1Magnitudes[code & 7]) << code;
    EXPECT_EQ(std::signbit(value), code >= 8) << code;
  }
}

TEST(E2m1, EncodesEveryValueToItsCode) {
  for (int code = 0; code < 16; ++code) {
    const uint8_t expected = code == 8 ? 0 : static_cast<uint8_t>(code);  // -0 is not below 0
    EXPECT_EQ(encode_e2m1(decode_e2m1(static_cast<uint8_t>(code))), expected) << code;
  }
}

TEST(E2m1, RoundsToTheNearestTiesToEven) {
  for (const float x : rounding_cases(kE2m1Magnitudes, 8.0f)) {
    const uint8_t expected = nearest(kE2m1Magnitudes, x);
    ASSERT_EQ(encode_e2m1(x), expected) << x;
    ASSERT_EQ(encode_e2m1(-x), x == 0 ? 0 : expected | 8) << -x;
  }
}

TEST(E2m1, SaturatesAndTakesNanAsTheLargest) {
  EXPECT_EQ(encode_e2m1(1e30f), 7);
  EXPECT_EQ(encode_e2m1(-1e30f), 15);
  EXPECT_EQ(encode_e2m1(kInfinity), 7);
  EXPECT_EQ(encode_e2m1(-kInfinity), 15);
  EXPECT_EQ(encode_e2m1(kNan), 7);
  EXPECT_EQ(encode_e2m1(-kNan), 7);
}

TEST(E4m3, DecodesEveryCode) {
  const std::vector<double> magnitudes = e4m3_magnitudes();
  EXPECT_EQ(magnitudes.back(), 448);
  for (int code = 0; code < 256; ++code) {
    const float value = decode_e4m3(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_EQ(std::bit_cast<uint32_t>(value), 0x7fc00000u) << code;
      continue;
    }
    EXPECT_EQ(std::fabs(value), magnitudes[code & 0x7f]) << code;
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
  }
}

TEST(E4m3, EncodesEveryValueToItsCode) {
  for (int code = 0; code < 256; ++code) {
    const uint8_t expected = code == 0xff ? 0x7f : static_cast<uint8_t>(code);
    EXPECT_EQ(encode_e4m3(decode_e4m3(static_cast<uint8_t>(code))), expected) << code;
  }
}

TEST(E4m3, RoundsToTheNearestTiesToEven) {
  const std::vector<double> magnitudes = e4m3_magnitudes();
  for (const float x : rounding_cases(magnitudes, 448.0f)) {
    const uint8_t expected = nearest(magnitudes, x);
    ASSERT_EQ(encode_e4m3(x), expected) << x;
    ASSERT_EQ(encode_e4m3(-x), expected | 0x80) << -x;
  }
}

TEST(E8m0, DecodesEveryCode) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(decode_e8m0(static_cast<uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_EQ(std::bit_cast<uint32_t>(decode_e8m0(0)), 0x00400000u);
  EXPECT_TRUE(std::isnan(decode_e8m0(255)));
}

TEST(Bf16, EveryNumberSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const bf16 value = {static_cast<uint16_t>(bits)};
    const float wide = to_float(value);
    if ((bits & 0x7fff) > 0x7f80) {
      ASSERT_TRUE(std::isnan(wide)) << bits;
      ASSERT_EQ(to_bf16(wide).bits, bits | 0x40) << bits;
    } else {
      ASSERT_EQ(to_bf16(wide).bits, bits) << bits;
    }
  }
}

TEST(Bf16, RoundsToTheNearestTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t wide = bits << 16;
    const auto rounded = [](uint32_t float_bits) { return to_bf16(std::bit_cast<float>(float_bits)).bits; };
    ASSERT_EQ(rounded(wide | 0x7fff), bits);
    ASSERT_EQ(rounded(wide | 0x8000), bits + (bits & 1));
    ASSERT_EQ(rounded(wide | 0x8001), bits + 1);  // past the largest: infinity, 0x7f80
    ASSERT_EQ(rounded(0x80000000u | wide | 0x8001), 0x8000 | (bits + 1));
  }
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x7f800001u)).bits, 0x7fc0);  // a NaN does not become infinity
}

}  // namespace
}  // namespace nibblecast
