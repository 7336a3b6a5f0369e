#include "formats/nvfp4_quantize.h"

#include <cmath>
#include <string>
#include <vector>

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
