#include "formats/mxfp4_to_nvfp4.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "formats/isa_test.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::first_difference;
using testing::random_bytes;

struct Cast {
  std::vector<uint8_t> codes, block_scales;
  CastCounts counts;
};

Cast cast_ref(const Mxfp4View& source, int k_max, NegativeZero negative_zero) {
  Cast cast = {std::vector<uint8_t>(source.rows * source.cols / 2),
               std::vector<uint8_t>(source.rows * source.cols / 16),
               {}};
  cast.counts = cast_mxfp4_to_nvfp4_ref(source, 0, source.rows, k_max, negative_zero, cast.codes.data(),
                                        cast.block_scales.data());
  return cast;
}

// All sixteen codes twice: 01 23 ... ef 01 ... (element 0 is the low nibble).
std::vector<uint8_t> all_codes_block() {
  std::vector<uint8_t> block;
  for (int i = 0; i < 16; ++i) block.push_back(static_cast<uint8_t>((2 * i % 16) | (2 * i + 1) % 16 << 4));
  return block;
}

Cast cast_block(const std::vector<uint8_t>& codes, uint8_t scale, int k_max, NegativeZero negative_zero) {
  return cast_ref({codes.data(), &scale, 1, 32}, k_max, negative_zero);
}

uint8_t element(const std::vector<uint8_t>& codes, size_t index) {
  return index % 2 == 0 ? codes[index / 2] & 15 : codes[index / 2] >> 4;
}

TEST(CastScan, FindsTheLargestScaleAndTheFirstNan) {
  for (size_t count = 0; count <= 200; ++count) {
    std::vector<uint8_t> bytes = random_bytes(count + 1, static_cast<uint32_t>(count));
    if (count % 3 == 0) {
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte % 250);
    }
    const uint8_t* scales = bytes.data() + 1;
    CastScan expected;
    for (size_t i = 0; i < count; ++i) {
      if (scales[i] != 255)
        expected.max_code = std::max<int>(expected.max_code, scales[i]);
      else if (!expected.nan_scale)
        expected.nan_scale = i;
    }
    const CastScan found = scan_scales(scales, count);
    EXPECT_EQ(found.max_code, expected.max_code) << count;
    EXPECT_EQ(found.nan_scale, expected.nan_scale) << count;
  }
}

TEST(CastScan, SeesEachByteAlone) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto scale = static_cast<uint8_t>(byte);
    const CastScan scan = scan_scales(&scale, 1);
    EXPECT_EQ(scan.max_code, byte == 255 ? 0 : byte);
    EXPECT_EQ(scan.nan_scale.has_value(), byte == 255);
    if (byte == 255) continue;
    EXPECT_EQ(scan.k_max(), byte == 0 ? 0 : byte - 127);
    EXPECT_EQ(scan.scale_2(), std::ldexp(1.0, scan.k_max() - 8));
  }
}

TEST(CastScan, MergesToTheLarger) {
  CastScan scan = {.max_code = 3, .nan_scale = {}};
  scan.merge({.max_code = 7, .nan_scale = 5});
  scan.merge({.max_code = 2, .nan_scale = 1});
  EXPECT_EQ(scan.max_code, 7);
  EXPECT_EQ(scan.nan_scale, 5u);
}

TEST(CastCounts, AddUp) {
  CastCounts counts = {1, 2, 3};
  counts.merge({10, 20, 30});
  EXPECT_EQ(counts, (CastCounts{11, 22, 33}));
}

TEST(CastReference, KeepsEveryNibbleInTheWindow) {
  const std::vector<uint8_t> codes = all_codes_block();
  const int k_max = -3;
  for (int distance = 0; distance <= 17; ++distance) {
    const auto scale = static_cast<uint8_t>(127 + k_max - distance);
    const Cast keep = cast_block(codes, scale, k_max, NegativeZero::kKeep);
    EXPECT_EQ(keep.codes, codes) << distance;
    EXPECT_EQ(decode_e4m3(keep.block_scales[0]), std::ldexp(1.0, 8 - distance));
    EXPECT_EQ(keep.block_scales[1], keep.block_scales[0]);
    EXPECT_EQ(keep.counts, (CastCounts{1, 0, 0}));
    const Cast modelopt = cast_block(codes, scale, k_max, NegativeZero::kModelOpt);
    EXPECT_EQ(modelopt.block_scales, keep.block_scales);
    EXPECT_EQ(modelopt.counts, keep.counts);
    for (size_t i = 0; i < 32; ++i) EXPECT_EQ(element(modelopt.codes, i), i % 16 == 8 ? 0 : i % 16);
  }
}

TEST(CastReference, RequantizesOutsideTheWindow) {
  const int k_max = 5;
  // The values 0 .5 1 1.5 2 3 4 6 over 2^1, 2^2 and 2^4, to the nearest code, ties to even.
  const std::vector<std::pair<int, std::vector<uint8_t>>> cases = {
      {18, {0, 0, 1, 2, 2, 3, 4, 5}}, {19, {0, 0, 0, 1, 1, 2, 2, 3}}, {21, {0, 0, 0, 0, 0, 0, 0, 1}}};
  for (const auto& [distance, expected] : cases) {
    const auto scale = static_cast<uint8_t>(127 + k_max - distance);
    for (const NegativeZero negative_zero : {NegativeZero::kKeep, NegativeZero::kModelOpt}) {
      const Cast cast = cast_block(all_codes_block(), scale, k_max, negative_zero);
      EXPECT_EQ(cast.counts, (CastCounts{1, 0, 1}));
      EXPECT_EQ(cast.block_scales, (std::vector<uint8_t>{1, 1}));
      for (size_t i = 0; i < 32; ++i) {
        const size_t code = i % 16;
        const int sign = code > 8 ? 8 : 0;  // -0 becomes 0; a negative value that rounds to zero becomes -0
        EXPECT_EQ(element(cast.codes, i), expected[code % 8] | sign) << distance << ' ' << code;
      }
    }
  }
}

TEST(CastReference, AZeroByteIsAZeroBlockOrOutside) {
  const std::vector<uint8_t> zeros(16, 0x00), signed_zeros(16, 0x80), codes = all_codes_block();
  for (const int k_max : {0, -109, 127}) {
    const Cast zero = cast_block(zeros, 0, k_max, NegativeZero::kKeep);
    EXPECT_EQ(zero.codes, zeros);
    EXPECT_EQ(zero.block_scales, (std::vector<uint8_t>{1, 1}));
    EXPECT_EQ(zero.counts, (CastCounts{1, 1, 0}));
    const Cast kept = cast_block(signed_zeros, 0, k_max, NegativeZero::kKeep);
    EXPECT_EQ(kept.codes, signed_zeros);
    EXPECT_EQ(kept.counts, (CastCounts{1, 1, 0}));
    EXPECT_EQ(cast_block(signed_zeros, 0, k_max, NegativeZero::kModelOpt).codes, zeros);
    EXPECT_EQ(cast_block(codes, 0, k_max, NegativeZero::kKeep).counts, (CastCounts{1, 0, 1}));
  }
  // 2^-127 is 2^-18 of 2^-109: halved. Far below, all becomes 0, -0 too where the quotient underflows.
  const Cast halved = cast_block(codes, 0, -109, NegativeZero::kKeep);
  EXPECT_EQ(element(halved.codes, 7), 5);
  EXPECT_EQ(element(halved.codes, 9), 8);
  EXPECT_EQ(cast_block(codes, 0, 127, NegativeZero::kKeep).codes, zeros);
}

TEST(CastReference, AZeroByteHasItsOwnScaleAtTheBottomOfTheRange) {
  // k_max -126, the scale byte 1: 2^(-127 + 126 + 8) = 128. Outside all the same, so -0 becomes 0.
  const Cast cast = cast_block(all_codes_block(), 0, -126, NegativeZero::kKeep);
  EXPECT_EQ(decode_e4m3(cast.block_scales[0]), 128);
  EXPECT_EQ(cast.counts, (CastCounts{1, 0, 1}));
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(element(cast.codes, i), i % 16 == 8 ? 0 : i % 16);
}

// Every scale byte in the window of each k_max; values must not change at all.
TEST(CastReference, ChangesNoValueInTheWindow) {
  for (int max_code = 1; max_code <= 254; ++max_code) {
    std::vector<uint8_t> codes, scales;
    for (int scale = std::max(1, max_code - 17); scale <= max_code; ++scale) {
      const std::vector<uint8_t> block = all_codes_block();
      codes.insert(codes.end(), block.begin(), block.end());
      scales.push_back(static_cast<uint8_t>(scale));
    }
    const Mxfp4View source = {codes.data(), scales.data(), scales.size(), 32};
    const CastScan scan = scan_scales(scales.data(), scales.size());
    ASSERT_EQ(scan.max_code, max_code);
    const size_t count = source.rows * source.cols;
    std::vector<float> before(count), after(count);
    dequantize_mxfp4_ref(source, 0, source.rows, before.data(), source.cols);
    for (const NegativeZero negative_zero : {NegativeZero::kKeep, NegativeZero::kModelOpt}) {
      const Cast cast = cast_ref(source, scan.k_max(), negative_zero);
      const Nvfp4View view = {cast.codes.data(), cast.block_scales.data(), scan.scale_2(), source.rows,
                              source.cols};
      dequantize_nvfp4_ref(view, 0, view.rows, after.data(), view.cols);
      if (negative_zero == NegativeZero::kKeep) {
        ASSERT_EQ(first_difference(before.data(), after.data(), count), count) << max_code;
      } else {
        ASSERT_EQ(before, after) << max_code;  // -0 equals 0
      }
    }
  }
}

// Random nibbles under scales from `lowest` to 254 below `range` more; some blocks all zero.
struct Source {
  size_t rows, cols;
  std::vector<uint8_t> codes, scales;

  Source(size_t rows_, size_t cols_, int lowest, int range, uint32_t seed)
      : rows(rows_),
        cols(cols_),
        codes(random_bytes(rows * cols / 2 + 1, seed)),
        scales(random_bytes(rows * cols / 32 + 1, seed + 1)) {
    for (uint8_t& scale : scales) scale = static_cast<uint8_t>(lowest + scale % range);
    for (size_t block = 0; block < rows * cols / 32; block += 5)
      std::fill_n(codes.begin() + 1 + block * 16, 16, 0x80);
  }
  // One byte off every alignment.
  Mxfp4View view() const { return {codes.data() + 1, scales.data() + 1, rows, cols}; }
  int k_max() const { return scan_scales(scales.data() + 1, scales.size() - 1).k_max(); }
};

void expect_reference(const Source& source, size_t row, size_t count, int k_max) {
  const Mxfp4View view = source.view();
  const size_t code_bytes = count * view.cols / 2, scale_bytes = count * view.cols / 16;
  for (const NegativeZero negative_zero : {NegativeZero::kKeep, NegativeZero::kModelOpt}) {
    std::vector<uint8_t> codes(code_bytes + 2, 0xab), scales(scale_bytes + 2, 0xab);
    std::vector<uint8_t> found_codes = codes, found_scales = scales, in_place = source.codes;
    const CastCounts expected =
        cast_mxfp4_to_nvfp4_ref(view, row, count, k_max, negative_zero, codes.data() + 1, scales.data() + 1);
    EXPECT_EQ(cast_mxfp4_to_nvfp4(view, row, count, k_max, negative_zero, found_codes.data() + 1,
                                  found_scales.data() + 1),
              expected);
    EXPECT_EQ(first_difference(codes.data(), found_codes.data(), codes.size()), codes.size());
    EXPECT_EQ(first_difference(scales.data(), found_scales.data(), scales.size()), scales.size());

    uint8_t* own = in_place.data() + 1 + row * view.cols / 2;
    const Mxfp4View same = {in_place.data() + 1, view.scales, view.rows, view.cols};
    found_scales.assign(scales.size(), 0xab);
    EXPECT_EQ(cast_mxfp4_to_nvfp4(same, row, count, k_max, negative_zero, own, found_scales.data() + 1),
              expected);
    EXPECT_EQ(first_difference(codes.data() + 1, own, code_bytes), code_bytes);
    EXPECT_EQ(scales, found_scales);
    EXPECT_TRUE(
        std::equal(in_place.begin(), in_place.begin() + (own - in_place.data()), source.codes.begin()));
    EXPECT_TRUE(std::equal(own + code_bytes, in_place.data() + in_place.size(),
                           source.codes.data() + (own + code_bytes - in_place.data())));
  }
}

TEST(CastKernel, EveryLengthAsTheReference) {
  for (size_t cols = 32; cols <= 32 * 40; cols += 32) {
    for (const int range : {1, 18, 19, 40}) {
      const Source source(3, cols, 100, range, static_cast<uint32_t>(cols));
      expect_reference(source, 0, 3, source.k_max());
      expect_reference(source, 1, 1, source.k_max());
    }
  }
}

TEST(CastKernel, AnyScalesAsTheReference) {
  for (const int lowest : {0, 1, 120, 237}) {
    const Source source(64, 4096, lowest, lowest == 0 ? 255 : 18, 3);
    expect_reference(source, 0, 64, source.k_max());
    expect_reference(source, 5, 58, source.k_max());
  }
}

TEST(CastKernel, ExtremeWindowsAsTheReference) {
  for (const int k_max : {-126, -110, -109, 0, 127}) {
    const Source source(4, 512, 0, 128 + k_max, 4);  // bytes 0 ... 127 + k_max
    expect_reference(source, 0, 4, k_max);
  }
  const Source zeros(4, 512, 0, 1, 5);
  EXPECT_EQ(zeros.k_max(), 0);
  expect_reference(zeros, 0, 4, 0);
}

// Few blocks outside, each at another place of its run.
TEST(CastKernel, SingleOutsidersAsTheReference) {
  Source source(16, 8192, 110, 12, 6);
  for (size_t block = 1; block < source.scales.size(); block += 257)
    source.scales[block] = block % 2 == 0 ? 0 : 90;
  expect_reference(source, 0, 16, source.k_max());
}

TEST(CastKernel, NoRowsWriteNothing) {
  const Source source(2, 64, 110, 3, 7);
  expect_reference(source, 2, 0, source.k_max());
}

}  // namespace
}  // namespace nibblecast
