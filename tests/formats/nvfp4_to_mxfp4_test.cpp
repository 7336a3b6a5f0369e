#include "formats/nvfp4_to_mxfp4.h"

#include <algorithm>
#include <vector>

#include "formats/isa_test.h"
#include "formats/mxfp4_to_nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::random_bytes;
using Bytes = std::vector<uint8_t>;

struct Nvfp4 {
  Bytes codes, scales;
  float scale_2 = 1;
  size_t rows = 0, cols = 0;
  Nvfp4View view() const { return {codes.data(), scales.data(), scale_2, rows, cols}; }
};

struct Mxfp4 {
  Bytes codes, scales;
  bool operator==(const Mxfp4&) const = default;
};

Nvfp4 cast(const Mxfp4& source, size_t rows, size_t cols) {
  const CastScan scan = scan_scales(source.scales.data(), source.scales.size());
  Nvfp4 out = {Bytes(source.codes.size()), Bytes(source.scales.size() * 2), scan.scale_2(), rows, cols};
  const CastCounts counts =
      cast_mxfp4_to_nvfp4({source.codes.data(), source.scales.data(), rows, cols}, 0, rows, scan.k_max(),
                          NegativeZero::kKeep, out.codes.data(), out.scales.data());
  EXPECT_EQ(counts.outside_window, 0u);
  return out;
}

Mxfp4 back(const Nvfp4& source, ZeroBlocks zero_blocks = ZeroBlocks::kByteZero) {
  Mxfp4 out = {Bytes(source.codes.size()), Bytes(source.scales.size() / 2)};
  EXPECT_EQ(
      cast_nvfp4_to_mxfp4(source.view(), 0, source.rows, zero_blocks, out.codes.data(), out.scales.data()),
      std::nullopt);
  return out;
}

// All sixteen codes twice.
void append_all_codes(Bytes& codes) {
  for (int i = 0; i < 16; ++i) codes.push_back(static_cast<uint8_t>((2 * i % 16) | (2 * i + 1) % 16 << 4));
}

TEST(Nvfp4ToMxfp4, UndoesTheCastOfEveryScaleInTheWindow) {
  for (int max_code = 1; max_code <= 254; ++max_code) {
    Mxfp4 source;
    for (int scale = std::max(1, max_code - 17); scale <= max_code; ++scale) {
      append_all_codes(source.codes);
      source.scales.push_back(static_cast<uint8_t>(scale));
      source.codes.insert(source.codes.end(), 16, 0x08);  // a zero block, of -0 and 0
      source.scales.push_back(0);
    }
    const Nvfp4 nvfp4 = cast(source, source.scales.size(), 32);
    EXPECT_EQ(back(nvfp4), source) << max_code;
    EXPECT_EQ(back(nvfp4, ZeroBlocks::kByScale), source) << max_code;
  }
}

TEST(Nvfp4ToMxfp4, UndoesTheCastOfRandomBlocksByRowsAndInPlace) {
  Mxfp4 source = {random_bytes(6 * 160 / 2, 1), random_bytes(6 * 5, 2)};
  for (uint8_t& scale : source.scales) scale = static_cast<uint8_t>(110 + scale % 18);
  Nvfp4 nvfp4 = cast(source, 6, 160);
  Mxfp4 found = {Bytes(480), Bytes(30)};
  for (size_t row = 0; row < 6; row += 2) {
    EXPECT_EQ(cast_nvfp4_to_mxfp4(nvfp4.view(), row, 2, ZeroBlocks::kByteZero, found.codes.data() + row * 80,
                                  found.scales.data() + row * 5),
              std::nullopt);
  }
  EXPECT_EQ(found, source);
  EXPECT_EQ(
      cast_nvfp4_to_mxfp4(nvfp4.view(), 0, 6, ZeroBlocks::kByteZero, nvfp4.codes.data(), found.scales.data()),
      std::nullopt);
  EXPECT_EQ(nvfp4.codes, source.codes);
}

TEST(Nvfp4ToMxfp4, GivesZeroBlocksTheByteAskedFor) {
  const Mxfp4 source = {Bytes(16 * 4), {120, 110, 103, 0}};  // the largest that is not 0: k_max -7, m -15
  const Nvfp4 nvfp4 = cast(source, 2, 64);
  EXPECT_EQ(back(nvfp4).scales, (Bytes{0, 0, 0, 0}));
  EXPECT_EQ(back(nvfp4, ZeroBlocks::kByScale).scales, (Bytes{120, 110, 0, 0}));  // 103 casts as 0 does
}

TEST(Nvfp4ToMxfp4, NamesTheFirstBlockThatDoesNotFit) {
  const Nvfp4 fits = {Bytes(2 * 48, 0x11), Bytes(2 * 6, 0x38), 0x1p-3f, 2, 96};
  Bytes codes(96), scales(6);
  const auto misfit = [&](auto change) {
    Nvfp4 nvfp4 = fits;
    change(nvfp4);
    return cast_nvfp4_to_mxfp4(nvfp4.view(), 0, 2, ZeroBlocks::kByteZero, codes.data(), scales.data());
  };
  using Misfit = MxfpMisfit;
  EXPECT_EQ(misfit([](Nvfp4&) {}), std::nullopt);
  for (const float scale_2 : {0.3f, 0.0f, -1.0f, 1.0f / 0.0f, 0.0f / 0.0f}) {
    EXPECT_EQ(misfit([&](Nvfp4& nvfp4) { nvfp4.scale_2 = scale_2; }), (Misfit{0, 0, Misfit::kGlobalScale}))
        << scale_2;
  }
  EXPECT_EQ(misfit([](Nvfp4& nvfp4) { nvfp4.scales[6 + 5] = 0x40; }), (Misfit{1, 2, Misfit::kHalvesDiffer}));
  for (const int scale : {0x39, 0x03, 0x00, 0x80, 0xb8, 0x7f, 0xff}) {
    const auto set = [&](Nvfp4& nvfp4) { nvfp4.scales[2] = nvfp4.scales[3] = static_cast<uint8_t>(scale); };
    EXPECT_EQ(misfit(set), (Misfit{0, 1, Misfit::kNoPowerOfTwo})) << scale;
  }
  EXPECT_EQ(misfit([](Nvfp4& nvfp4) { nvfp4.scale_2 = 0x1p127f, nvfp4.scales[4] = nvfp4.scales[5] = 0x40; }),
            (Misfit{0, 2, Misfit::kOutOfRange}));
  EXPECT_EQ(misfit([](Nvfp4& nvfp4) { nvfp4.scale_2 = 0x1p-127f, nvfp4.scales[4] = nvfp4.scales[5] = 0x30; }),
            (Misfit{0, 2, Misfit::kOutOfRange}));
}

TEST(Nvfp4ToMxfp4, RefusesANanOverZeros) {
  const Nvfp4 nan = {Bytes(16), {0x38, 0x7f}, 1, 1, 32};
  Bytes codes(16), scales(1);
  EXPECT_EQ(cast_nvfp4_to_mxfp4(nan.view(), 0, 1, ZeroBlocks::kByteZero, codes.data(), scales.data()),
            (MxfpMisfit{0, 0, MxfpMisfit::kHalvesDiffer}));
}

}  // namespace
}  // namespace nibblecast
