#include "formats/mxfp4.h"

#include <cmath>
#include <vector>

#include "formats/isa_test.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::first_difference;
using testing::random_bytes;

// Every byte of two codes at every scale.
struct AllValues {
  std::vector<uint8_t> codes, scales;
  static constexpr size_t kRows = 256, kCols = 512;

  AllValues() {
    for (int scale = 0; scale < 256; ++scale) {
      for (int byte = 0; byte < 256; ++byte) codes.push_back(static_cast<uint8_t>(byte));
      scales.insert(scales.end(), kCols / 32, static_cast<uint8_t>(scale));
    }
  }
  Mxfp4View view() const { return {codes.data(), scales.data(), kRows, kCols}; }
};

TEST(Mxfp4Reference, IsTheDefinition) {
  const AllValues all;
  std::vector<float> out(AllValues::kRows * AllValues::kCols);
  dequantize_mxfp4_ref(all.view(), 0, AllValues::kRows, out.data(), AllValues::kCols);
  for (size_t row = 0; row < 255; ++row) {
    for (size_t col = 0; col < AllValues::kCols; ++col) {
      const uint8_t byte = static_cast<uint8_t>(col / 2);
      const uint8_t code = col % 2 == 0 ? byte & 15 : byte >> 4;
      const double value = std::ldexp(double{decode_e2m1(code)}, static_cast<int>(row) - 127);
      // Exact, but for 2^128 and above, which F32 has not.
      ASSERT_EQ(out[row * AllValues::kCols + col], static_cast<float>(value)) << row << ' ' << col;
    }
  }
  for (size_t col = 0; col < AllValues::kCols; ++col)
    ASSERT_TRUE(std::isnan(out[255 * AllValues::kCols + col]));
}

class Mxfp4 : public testing::IsaTest {
 protected:
  // Into a wider output, one element off alignment, whose other elements must stay.
  template <class T>
  void expect_reference(const Mxfp4View& view, size_t row, size_t count) {
    const size_t stride = view.cols + 5;
    std::vector<T> expected(count * stride + 1, from_float<T>(77)), found = expected;
    dequantize_mxfp4_ref(view, row, count, expected.data() + 1, stride);
    dequantize_mxfp4(view, row, count, found.data() + 1, stride);
    const size_t at = first_difference(expected.data(), found.data(), found.size());
    EXPECT_EQ(at, found.size()) << "cols " << view.cols << ", row " << (at - 1) / stride << ", col "
                                << (at - 1) % stride << ": " << to_float(found[at % found.size()]);
  }
};

TEST_P(Mxfp4, EveryValueAsTheReference) {
  const AllValues all;
  expect_reference<float>(all.view(), 0, AllValues::kRows);
  expect_reference<bf16>(all.view(), 0, AllValues::kRows);
}

TEST_P(Mxfp4, EveryLengthAndAnyAddressAsTheReference) {
  constexpr size_t kRows = 3;
  for (size_t cols = 32; cols <= 32 * 9; cols += 32) {
    const std::vector<uint8_t> codes = random_bytes(kRows * cols / 2 + 3, 1),
                               scales = random_bytes(kRows * cols / 32 + 1, 2);
    const Mxfp4View view = {codes.data() + 3, scales.data() + 1, kRows, cols};
    for (size_t row = 0; row < kRows; ++row) {
      expect_reference<float>(view, row, kRows - row);
      expect_reference<bf16>(view, row, kRows - row);
    }
  }
}

TEST_P(Mxfp4, NoRowsWriteNothing) { expect_reference<float>({nullptr, nullptr, 4, 64}, 4, 0); }

INSTANTIATE_FOR_EVERY_ISA(Mxfp4);

}  // namespace
}  // namespace nibblecast
