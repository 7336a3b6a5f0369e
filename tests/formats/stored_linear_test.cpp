#include "formats/stored_linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/isa_test.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::first_difference;
using testing::random_bytes;
using Bytes = std::vector<uint8_t>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class StoredLinearTest : public testing::IsaTest {
 protected:
  template <class T>
  DequantizeReport expect_reference(const StoredLinear& weight, size_t row, size_t count) {
    const size_t stride = cols_of(weight) + 3;
    std::vector<T> expected(count * stride + 1, from_float<T>(77)), found = expected;
    const DequantizeReport report = dequantize_rows_ref(weight, row, count, expected.data() + 1, stride);
    EXPECT_EQ(dequantize_rows(weight, row, count, found.data() + 1, stride), report);
    const size_t at = first_difference(expected.data(), found.data(), found.size());
    EXPECT_EQ(at, found.size()) << "format " << weight.index() << ", " << sizeof(T) << " bytes, cols "
                                << stride - 3 << ", row " << (at - 1) / stride << ", col "
                                << (at - 1) % stride;
    return report;
  }
  void expect_reference(const StoredLinear& weight, size_t row, size_t count) {
    expect_reference<float>(weight, row, count);
    expect_reference<bf16>(weight, row, count);
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
    expect_reference(F32View{from, kRows, cols}, 1, 3);
    for (const ScaleType type : {ScaleType::kE8M0, ScaleType::kF32})
      expect_reference(Fp8BlockView{from, scale, type, kRows, cols, 2, 7}, 1, 3);
    if (cols % 2 == 0) expect_reference(Nvfp4View{from, scale, 0.0371f, kRows, cols * 8}, 1, 3);
    expect_reference(Mxfp4View{from, scale, kRows, 32 * (cols % 5)}, 1, 3);
  }
}

TEST_P(StoredLinearTest, EveryNvfp4CodeAtEveryScale) {
  Bytes codes, scales;
  for (int scale = 0; scale < 256; ++scale) {
    for (int pair = 0; pair < 8; ++pair)
      codes.push_back(static_cast<uint8_t>(2 * pair | (2 * pair + 1) << 4));
    scales.push_back(static_cast<uint8_t>(scale));
  }
  for (const float scale_2 :
       {1.0f, 0x1p-8f, 0.1f, 3e38f, 1e-40f, 0.0f, std::numeric_limits<float>::infinity(), kNan})
    expect_reference(Nvfp4View{codes.data(), scales.data(), scale_2, 256, 16}, 0, 256);
}

TEST_P(StoredLinearTest, RoundsEveryFloatOnceToBf16) {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (const uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  const DequantizeReport report = expect_reference<bf16>(F32View{values.data(), 1, values.size()}, 0, 1);
  EXPECT_EQ(report.inexact, 2u * 0x7f80 * 5);     // five of six of each finite
  EXPECT_EQ(report.non_finite, 6u * 0x7f7f + 3);  // half a step above the largest
}

TEST_P(StoredLinearTest, CountsWhatBf16CannotHold) {
  const Bytes codes = random_bytes(64 * 64, 1);
  Bytes finite = codes;
  for (uint8_t& code : finite) code = static_cast<uint8_t>(code % 127 | (code & 0x80));
  const Bytes e8m0(64, 100);
  const std::vector<float> f32(64, 0.1f);
  std::vector<bf16> out(64 * 64);
  const Fp8BlockView fp8 = {finite.data(), e8m0.data(), ScaleType::kE8M0, 64, 64, 8, 8};
  EXPECT_EQ(dequantize_rows(fp8, 0, 64, out.data(), 64), DequantizeReport{});
  const Fp8BlockView rounded = {finite.data(), f32.data(), ScaleType::kF32, 64, 64, 8, 8};
  EXPECT_GT(dequantize_rows(rounded, 0, 64, out.data(), 64).inexact, 2000u);
  EXPECT_EQ(dequantize_rows(Nvfp4View{codes.data(), finite.data(), 0x1p-11f, 64, 64}, 0, 64, out.data(), 64),
            DequantizeReport{});
  EXPECT_GT(
      dequantize_rows(Nvfp4View{codes.data(), finite.data(), 0.3f, 64, 64}, 0, 64, out.data(), 64).inexact,
      1000u);
}

TEST_P(StoredLinearTest, ReportsWhereTheFirstNonFiniteValueIs) {
  Bytes codes(8 * 64, 0x11), scales(8 * 4, 0x38);
  scales[5 * 4 + 2] = 0x7f;
  scales[6 * 4] = 0x7f;
  const Nvfp4View nvfp4 = {codes.data(), scales.data(), 1, 8, 64};
  std::vector<float> out(8 * 64);
  EXPECT_EQ(dequantize_rows(nvfp4, 0, 8, out.data(), 64).non_finite, 5u * 64 + 32);
  EXPECT_EQ(dequantize_rows(nvfp4, 6, 2, out.data(), 64).non_finite, 6u * 64);
  EXPECT_EQ(dequantize_rows(nvfp4, 0, 5, out.data(), 64).non_finite, std::nullopt);
  DequantizeReport report = {3, std::nullopt};
  report.merge({4, 9});
  report.merge({5, 2});
  EXPECT_EQ(report, (DequantizeReport{12, 9}));

  Bytes fp8_codes(3 * 5, 0x38);
  fp8_codes[7] = 0xff;
  const Bytes e8m0 = {127, 127, 127, 255};
  EXPECT_EQ(dequantize_rows(Fp8BlockView{fp8_codes.data(), e8m0.data(), ScaleType::kE8M0, 3, 5, 2, 4}, 0, 3,
                            out.data(), 5)
                .non_finite,
            7u);
  EXPECT_EQ(dequantize_rows(Fp8BlockView{fp8_codes.data(), e8m0.data(), ScaleType::kE8M0, 3, 5, 2, 4}, 2, 1,
                            out.data(), 5)
                .non_finite,
            14u);  // the edge tile's scale
}

INSTANTIATE_FOR_EVERY_ISA(StoredLinearTest);

}  // namespace
}  // namespace nibblecast
