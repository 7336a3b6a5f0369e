// tests/formats/stored_linear_suite.h - what dequantizes rows, on whatever it runs, gives the reference's
// bits.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "formats/isa_test.h"
#include "formats/stored_linear.h"

namespace nibblecast::testing {

struct DequantizeBackend {
  std::string name;
  std::function<void()> set_up;
  // As dequantize_rows, on host memory. `buffer` holds `out`: what lies around the rows must stay.
  template <class T>
  using Function =
      std::function<std::optional<DequantizeReport>(const StoredLinear& weight, size_t row, size_t count,
                                                    std::vector<T>& buffer, size_t out, size_t out_stride)>;
  Function<float> to_float;
  Function<bf16> to_bf16;
};

// Where rows go: `begin` elements behind an aligned place, `gap` elements between them.
struct Place {
  size_t begin = 1, gap = 3;
};

class StoredLinearTest : public ::testing::TestWithParam<DequantizeBackend> {
 protected:
  using Bytes = std::vector<uint8_t>;

  void SetUp() override { GetParam().set_up(); }
  void TearDown() override { set_cpu_isa("auto"); }

  template <class T>
  DequantizeReport expect_reference(const StoredLinear& weight, size_t row, size_t count, Place place) {
    const size_t stride = cols_of(weight) + place.gap;
    std::vector<T> expected(place.begin + count * stride, from_float<T>(77)), found = expected;
    const DequantizeReport report =
        dequantize_rows_ref(weight, row, count, expected.data() + place.begin, stride);
    if (const auto reported = dequantize<T>(weight, row, count, found, place.begin, stride)) {
      EXPECT_EQ(*reported, report);
    }
    const size_t at = first_difference(expected.data(), found.data(), found.size());
    EXPECT_EQ(at, found.size()) << "format " << weight.index() << ", " << sizeof(T) << " bytes, cols "
                                << cols_of(weight) << ", row " << (at - place.begin) / stride << ", col "
                                << (at - place.begin) % stride;
    return report;
  }
  void expect_reference(const StoredLinear& weight, size_t row, size_t count, Place place = {}) {
    expect_reference<float>(weight, row, count, place);
    expect_reference<bf16>(weight, row, count, place);
  }

 private:
  template <class T>
  std::optional<DequantizeReport> dequantize(const StoredLinear& weight, size_t row, size_t count,
                                             std::vector<T>& buffer, size_t out, size_t out_stride) const {
    if constexpr (std::is_same_v<T, bf16>)
      return GetParam().to_bf16(weight, row, count, buffer, out, out_stride);
    else
      return GetParam().to_float(weight, row, count, buffer, out, out_stride);
  }
};

TEST_P(StoredLinearTest, EveryFormatAndLengthAsTheReference) {
  constexpr size_t kRows = 5;
  for (size_t cols = 1; cols <= 70; ++cols) {
    // Any bytes, one off every alignment: NaN, infinity and subnormals are among them.
    const Bytes bytes = random_bytes(kRows * (cols * 4 + 64) + 1, static_cast<uint32_t>(cols));
    const Bytes scales = random_bytes(kRows * (cols * 4 + 64) + 1, static_cast<uint32_t>(cols + 1000));
    const uint8_t *from = bytes.data() + 1, *scale = scales.data() + 1;
    expect_reference(Bf16View{from, kRows, cols}, 1, 3);
    expect_reference(F16View{from, kRows, cols}, 1, 3);
    expect_reference(F32View{from, kRows, cols}, 1, 3);
    for (const ScaleType type : {ScaleType::kE8M0, ScaleType::kF16, ScaleType::kF32})
      expect_reference(Fp8BlockView{from, scale, type, kRows, cols, 2, 7}, 1, 3);
    if (cols % 2 == 0) expect_reference(Nvfp4View{from, scale, 0.0371f, kRows, cols * 8}, 1, 3);
    expect_reference(Mxfp4View{from, scale, kRows, 32 * (cols % 5)}, 1, 3);
    for (const ScaleType type : {ScaleType::kBF16, ScaleType::kF16, ScaleType::kF32}) {
      const size_t group = 8 * (1 + cols % 7);
      expect_reference(Int4View{from, scale, type, kRows, group * (cols % 4), group}, 1, 3);
    }
  }
}

// Shapes and places that allow wide accesses, with and without gaps between the rows.
TEST_P(StoredLinearTest, AlignedRowsAsTheReference) {
  constexpr size_t kRows = 7;
  for (const size_t cols : {32, 64, 512, 1056, 4096, 4128, 8224}) {
    const Bytes bytes = random_bytes(kRows * cols * 4, static_cast<uint32_t>(cols));
    const Bytes scales = random_bytes(kRows * cols, static_cast<uint32_t>(cols + 1000));
    for (const Place place : {Place{0, 0}, Place{8, 0}, Place{8, 16}}) {
      for (const size_t count : {0, 1, 5}) {
        const auto expect = [&](const StoredLinear& weight) { expect_reference(weight, 2, count, place); };
        expect(Bf16View{bytes.data(), kRows, cols});
        expect(F16View{bytes.data(), kRows, cols});
        expect(F32View{bytes.data(), kRows, cols});
        for (const ScaleType type : {ScaleType::kE8M0, ScaleType::kF32}) {
          expect(Fp8BlockView{bytes.data(), scales.data(), type, kRows, cols, 4, 128});
          expect(Fp8BlockView{bytes.data(), scales.data(), type, kRows, cols, 3, 136});
          expect(Fp8BlockView{bytes.data(), scales.data(), type, kRows, cols, kRows, cols});
        }
        expect(Nvfp4View{bytes.data(), scales.data(), 0x1.8p-9f, kRows, cols});
        expect(Mxfp4View{bytes.data(), scales.data(), kRows, cols});
        for (const size_t group : {size_t{8}, size_t{32}, cols})
          expect(Int4View{bytes.data(), scales.data(), ScaleType::kBF16, kRows, cols, group});
      }
    }
  }
}

// Against the definition in double; every one is a float.
TEST_P(StoredLinearTest, EveryF16) {
  std::vector<f16> values;
  for (uint32_t bits = 0; bits < 65536; ++bits) values.push_back({static_cast<uint16_t>(bits)});
  for (const f16 value : values) {
    const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(to_float(value))) << value.bits;
      continue;
    }
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = std::numeric_limits<double>::infinity();
    ASSERT_EQ(double{to_float(value)}, value.bits >> 15 ? -expected : expected) << value.bits;
  }
  const F16View weight = {values.data(), 1, values.size()};
  EXPECT_EQ(expect_reference<float>(weight, 0, 1, {}).non_finite, 0x7c00u);
  EXPECT_GT(expect_reference<bf16>(weight, 0, 1, {}).inexact, 0u);
}

TEST_P(StoredLinearTest, EveryNvfp4CodeAtEveryScale) {
  Bytes codes, scales;
  for (int scale = 0; scale < 256; ++scale) {
    for (int pair = 0; pair < 8; ++pair)
      codes.push_back(static_cast<uint8_t>(2 * pair | (2 * pair + 1) << 4));
    scales.push_back(static_cast<uint8_t>(scale));
  }
  for (const float scale_2 :
       {1.0f, 0x1p-8f, 0.1f, 3e38f, 1e-40f, 0.0f, std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    const Nvfp4View weight = {codes.data(), scales.data(), scale_2, 256, 16};
    expect_reference(weight, 0, 256);
    expect_reference(weight, 0, 256, {0, 0});
  }
}

TEST_P(StoredLinearTest, EveryMxfp4CodeAtEveryScale) {
  Bytes codes, scales;
  for (int scale = 0; scale < 256; ++scale) {
    for (int pair = 0; pair < 16; ++pair)
      codes.push_back(static_cast<uint8_t>(2 * pair % 16 | (2 * pair + 1) % 16 << 4));
    scales.push_back(static_cast<uint8_t>(scale));
  }
  const Mxfp4View weight = {codes.data(), scales.data(), 256, 32};
  expect_reference(weight, 0, 256);
  expect_reference(weight, 0, 256, {0, 0});
}

// Every BF16 number as a scale, NaN and infinity too.
TEST_P(StoredLinearTest, EveryInt4CodeAtEveryScale) {
  Bytes codes;
  std::vector<uint16_t> scales;
  for (uint32_t scale = 0; scale < 65536; ++scale) {
    for (int pair = 0; pair < 8; ++pair)
      codes.push_back(static_cast<uint8_t>(2 * pair | (2 * pair + 1) << 4));
    scales.push_back(static_cast<uint16_t>(scale));
  }
  const Int4View weight = {codes.data(), scales.data(), ScaleType::kBF16, 65536, 16, 16};
  expect_reference(weight, 0, 65536);
  expect_reference(weight, 0, 65536, {0, 0});
}

TEST_P(StoredLinearTest, EveryFp8CodeAtEveryScale) {
  Bytes codes, e8m0;
  std::vector<float> f32;
  for (int scale = 0; scale < 256; ++scale) {
    for (int code = 0; code < 256; ++code) codes.push_back(static_cast<uint8_t>(code));
    e8m0.push_back(static_cast<uint8_t>(scale));
    f32.push_back(std::bit_cast<float>(0x3c0f7u * static_cast<uint32_t>(scale) * 0x11u));
  }
  f32[0] = std::numeric_limits<float>::infinity();
  f32[1] = -std::numeric_limits<float>::quiet_NaN();
  for (const Place place : {Place{}, Place{0, 0}}) {
    expect_reference(Fp8BlockView{codes.data(), e8m0.data(), ScaleType::kE8M0, 256, 256, 1, 256}, 0, 256,
                     place);
    expect_reference(Fp8BlockView{codes.data(), f32.data(), ScaleType::kF32, 256, 256, 1, 256}, 0, 256,
                     place);
  }
}

TEST_P(StoredLinearTest, RoundsEveryFloatOnceToBf16) {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (const uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  const F32View weight = {values.data(), 1, values.size()};
  const DequantizeReport report = expect_reference<bf16>(weight, 0, 1, {});
  EXPECT_EQ(report.inexact, 2u * 0x7f80 * 5);     // five of six of each finite
  EXPECT_EQ(report.non_finite, 6u * 0x7f7f + 3);  // half a step above the largest
  expect_reference<bf16>(weight, 0, 1, {0, 0});
}

}  // namespace nibblecast::testing
