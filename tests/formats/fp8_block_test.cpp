#include "formats/fp8_block.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/isa_test.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::first_difference;
using testing::random_bytes;

TEST(Fp8BlockReference, IsTheDefinition) {
  // 3 x 5 in tiles of 2 x 2: two rows of three scales.
  const std::vector<uint8_t> codes = {0x38, 0x40, 0xb8, 0x01, 0x7e,   //  1 2 -1 2^-9 448
                                      0x00, 0x80, 0x7f, 0xff, 0x08,   //  0 -0 NaN NaN 2^-6
                                      0x39, 0x30, 0xfe, 0x3f, 0x07};  //  1.125 0.5 -448 1.875 7 * 2^-9
  const std::vector<uint8_t> scales = {127, 128, 126, 0, 255, 130};
  const Fp8BlockView view = {codes.data(), scales.data(), ScaleType::kE8M0, 3, 5, 2, 2};
  std::vector<float> out(15);
  dequantize_fp8_block_ref(view, 0, 3, out.data(), 5);
  const std::vector<float> expected = {
      1, 2, -2, 0x1p-8f, 224, 0, -0.0f, 0, 0, 0x1p-7f, 1.125f * 0x1p-127f, 0x1p-128f, 0, 0, 7 * 0x1p-6f};
  for (const size_t nan : {7, 8, 12, 13}) {
    EXPECT_TRUE(std::isnan(out[nan])) << nan;
    out[nan] = 0;
  }
  EXPECT_EQ(first_difference(out.data(), expected.data(), 15), 15u);

  const std::vector<float> f32_scales = {1.0f, 0.1f, 3.0f, 1e-30f, 1e37f, 1e-3f};
  const Fp8BlockView f32 = {codes.data(), f32_scales.data(), ScaleType::kF32, 3, 5, 2, 2};
  std::vector<bf16> narrow(5);
  dequantize_fp8_block_ref(f32, 2, 1, narrow.data(), 5);
  EXPECT_EQ(narrow[0].bits, to_bf16(1.125f * 1e-30f).bits);
  EXPECT_EQ(to_float(narrow[2]), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(narrow[4].bits, to_bf16(7 * 0x1p-9f * 1e-3f).bits);
}

class Fp8Block : public testing::IsaTest {
 protected:
  template <class T>
  void expect_reference(const Fp8BlockView& view, size_t row, size_t count) {
    const size_t stride = view.cols + 3;
    std::vector<T> expected(count * stride + 1, from_float<T>(77)), found = expected;
    dequantize_fp8_block_ref(view, row, count, expected.data() + 1, stride);
    dequantize_fp8_block(view, row, count, found.data() + 1, stride);
    const size_t at = first_difference(expected.data(), found.data(), found.size());
    EXPECT_EQ(at, found.size()) << "cols " << view.cols << ", row " << (at - 1) / stride << ", col "
                                << (at - 1) % stride;
  }
};

TEST_P(Fp8Block, EveryCodeAtEveryE8m0ScaleAsTheReference) {
  std::vector<uint8_t> codes, scales;
  for (int scale = 0; scale < 256; ++scale) {
    for (int code = 0; code < 256; ++code) codes.push_back(static_cast<uint8_t>(code));
    scales.push_back(static_cast<uint8_t>(scale));
  }
  const Fp8BlockView view = {codes.data(), scales.data(), ScaleType::kE8M0, 256, 256, 1, 256};
  expect_reference<float>(view, 0, 256);
  expect_reference<bf16>(view, 0, 256);
}

TEST_P(Fp8Block, EveryCodeAtUnusualF32ScalesAsTheReference) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> scales = {1.0f,
                                     0.1f,
                                     -3.7e-5f,
                                     1.00390625f,
                                     Limits::max(),
                                     Limits::min(),
                                     Limits::denorm_min(),
                                     0.0f,
                                     -0.0f,
                                     1e36f,
                                     2.3e-41f,
                                     Limits::infinity(),
                                     Limits::quiet_NaN(),
                                     -Limits::quiet_NaN(),
                                     Limits::signaling_NaN(),
                                     0x1.fffffep-3f};
  // The scales stand at an odd address, as a tensor of a safetensors file may.
  std::vector<uint8_t> unaligned(1 + scales.size() * sizeof(float));
  std::memcpy(unaligned.data() + 1, scales.data(), scales.size() * sizeof(float));
  std::vector<uint8_t> codes;
  for (size_t row = 0; row < scales.size(); ++row) {
    for (int code = 0; code < 256; ++code) codes.push_back(static_cast<uint8_t>(code));
  }
  const Fp8BlockView view = {codes.data(), unaligned.data() + 1, ScaleType::kF32, scales.size(), 256, 1, 256};
  expect_reference<float>(view, 0, scales.size());
  expect_reference<bf16>(view, 0, scales.size());
}

TEST_P(Fp8Block, EveryLengthTileAndAddressAsTheReference) {
  constexpr size_t kRows = 5;
  for (const size_t tile : {1, 7, 32, 128}) {
    for (size_t cols = 1; cols <= 140; ++cols) {
      const std::vector<uint8_t> codes = random_bytes(kRows * cols + 1, 1),
                                 scales = random_bytes(kRows * cols + 1, 2);
      const Fp8BlockView view = {codes.data() + 1, scales.data() + 1, ScaleType::kE8M0, kRows, cols, 2, tile};
      expect_reference<float>(view, 1, 3);
      expect_reference<bf16>(view, 1, 3);
    }
  }
}

INSTANTIATE_FOR_EVERY_ISA(Fp8Block);

}  // namespace
}  // namespace nibblecast
