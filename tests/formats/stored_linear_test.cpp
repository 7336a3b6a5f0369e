#include "formats/stored_linear.h"

#include <optional>
#include <string>
#include <vector>

#include "formats/isa_test.h"
#include "formats/stored_linear_suite.h"

namespace nibblecast {
namespace {

using testing::DequantizeBackend;
using testing::random_bytes;
using testing::StoredLinearTest;
using Bytes = std::vector<uint8_t>;

template <class T>
std::optional<DequantizeReport> dequantize(const StoredLinear& weight, size_t row, size_t count,
                                           std::vector<T>& buffer, size_t out, size_t out_stride) {
  return dequantize_rows(weight, row, count, buffer.data() + out, out_stride);
}

std::vector<DequantizeBackend> every_isa() {
  std::vector<DequantizeBackend> backends;
  for (const CpuIsa isa : testing::available_isas()) {
    const std::string name(cpu_isa_name(isa));
    backends.push_back({name, [name] { set_cpu_isa(name); }, dequantize<float>, dequantize<bf16>});
  }
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Isa, StoredLinearTest, ::testing::ValuesIn(every_isa()),
                         [](const auto& backend) { return backend.param.name; });

class DequantizeReportTest : public testing::IsaTest {};

TEST_P(DequantizeReportTest, CountsWhatBf16CannotHold) {
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

TEST_P(DequantizeReportTest, Int4IsCodeLessEightTimesItsGroupsScale) {
  // Columns 0 ... 15 hold 0 ... 15; 16 ... 31 the same backwards.
  const Bytes codes = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe,
                       0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
  const std::vector<float> scales = {0.5f, -3.0f};
  const Int4View weight = {codes.data(), scales.data(), ScaleType::kF32, 1, 32, 16};
  std::vector<float> out(32);
  EXPECT_EQ(dequantize_rows(weight, 0, 1, out.data(), 32), DequantizeReport{});
  for (int col = 0; col < 16; ++col) {
    EXPECT_EQ(out[static_cast<size_t>(col)], static_cast<float>(col - 8) * 0.5f);
    EXPECT_EQ(out[static_cast<size_t>(16 + col)], static_cast<float>(7 - col) * -3.0f);
  }
  const std::vector<float> odd = {1 + 0x1p-7f, 0x1p-130f};  // BF16's last bit
  std::vector<bf16> narrow(32);
  EXPECT_EQ(
      dequantize_rows(Int4View{codes.data(), odd.data(), ScaleType::kF32, 1, 32, 16}, 0, 1, narrow.data(), 32)
          .inexact,
      8u);  // times 3, 5, 6 and 7, and the same negative
}

TEST_P(DequantizeReportTest, ReportsWhereTheFirstNonFiniteValueIs) {
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

INSTANTIATE_FOR_EVERY_ISA(DequantizeReportTest);

}  // namespace
}  // namespace nibblecast
