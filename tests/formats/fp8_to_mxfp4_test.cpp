#include "formats/fp8_to_mxfp4.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/isa_test.h"
#include "formats/mxfp4.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::first_difference;
using testing::random_bytes;
using Bytes = std::vector<uint8_t>;

struct Mxfp4 {
  Bytes codes, scales;
  bool operator==(const Mxfp4&) const = default;
};

uint8_t nibble(const Bytes& codes, size_t index) {
  return static_cast<uint8_t>(index % 2 == 0 ? codes[index / 2] & 15 : codes[index / 2] >> 4);
}

// The E4M3 code of a number that has one; -0 too.
uint8_t e4m3(float value) {
  const auto sign = static_cast<uint8_t>(std::signbit(value) ? 0x80 : 0);
  const auto code = static_cast<uint8_t>(sign | encode_e4m3(std::fabs(value)));
  EXPECT_EQ(decode_e4m3(code), value);
  return code;
}

// FP8 codes of the same values, under tiles of scale 2^tile_exponents[tile].
Bytes as_fp8(const Mxfp4& source, size_t cols, size_t tile_rows, size_t tile_cols,
             const std::vector<int>& tile_exponents) {
  Bytes codes(source.codes.size() * 2);
  const size_t tiles_in_row = (cols + tile_cols - 1) / tile_cols;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int tile = tile_exponents[i / cols / tile_rows * tiles_in_row + i % cols / tile_cols];
    codes[i] = e4m3(std::ldexp(decode_e2m1(nibble(source.codes, i)), source.scales[i / 32] - 127 - tile));
  }
  return codes;
}

Bytes e8m0(const std::vector<int>& exponents) {
  Bytes bytes;
  for (const int exponent : exponents) bytes.push_back(static_cast<uint8_t>(exponent + 127));
  return bytes;
}

// What both casts make of it, which must agree.
std::optional<Mxfp4> cast(const Fp8BlockView& source) {
  Mxfp4 made = {Bytes(source.rows * source.cols / 2), Bytes(source.rows * source.cols / 32)};
  Mxfp4 expected = made;
  const auto misfit = cast_fp8_to_mxfp4(source, 0, source.rows, made.codes.data(), made.scales.data());
  EXPECT_EQ(misfit,
            cast_fp8_to_mxfp4_ref(source, 0, source.rows, expected.codes.data(), expected.scales.data()));
  if (misfit) return std::nullopt;
  EXPECT_EQ(made, expected);
  return made;
}

std::optional<Mxfp4> cast_one(const Bytes& codes, int exponent) {
  const Bytes scale = e8m0({exponent});
  return cast({.codes = codes.data(), .scales = scale.data(), .rows = codes.size() / 32, .cols = 32});
}

// A block of these values and zeros.
Bytes block_of(std::initializer_list<float> values) {
  Bytes codes;
  for (const float value : values) codes.push_back(e4m3(value));
  codes.resize(32);
  return codes;
}

Mxfp4 mxfp4_of(std::initializer_list<uint8_t> nibbles, uint8_t scale) {
  Mxfp4 block = {Bytes(16), {scale}};
  size_t index = 0;
  for (const uint8_t code : nibbles) {
    block.codes[index / 2] = static_cast<uint8_t>(block.codes[index / 2] | code << (index % 2 * 4));
    ++index;
  }
  return block;
}

// All sixteen codes twice.
Mxfp4 all_codes(uint8_t scale) {
  return mxfp4_of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                   0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                  scale);
}

TEST(Fp8ToMxfp4, GivesBackEveryCodeUnderEveryScale) {
  for (int scale = 0; scale <= 252; ++scale) {
    const Mxfp4 block = all_codes(static_cast<uint8_t>(scale));
    for (int below = -8; below <= 6; ++below) {  // 0.5 at 2^-9 ... 6 at 448 or less
      const int tile = scale - 127 - below;
      if (tile < -127 || tile > 127) continue;
      EXPECT_EQ(cast_one(as_fp8(block, 32, 1, 32, {tile}), tile), block) << scale << " " << below;
    }
  }
}

TEST(Fp8ToMxfp4, ScalesBeyondE8m0OrWithInfiniteValuesDoNotFit) {
  EXPECT_EQ(cast_one(block_of({0x1p-9f}), -127), std::nullopt);
  EXPECT_EQ(cast_one(block_of({0x1p2f}), -127)->scales, Bytes{0});
  EXPECT_EQ(cast_one(block_of({0x1p1f}), -127), std::nullopt);
  EXPECT_EQ(cast_one(block_of({1.5f}), 127)->scales, Bytes{252});
  EXPECT_EQ(cast_one(block_of({2}), 127), std::nullopt);  // 2^128
  EXPECT_EQ(cast_one(block_of({256}), 127), std::nullopt);
}

TEST(Fp8ToMxfp4, TheLargestMagnitudeIsAt34Or6) {
  EXPECT_EQ(cast_one(block_of({1}), 0), mxfp4_of({6}, 125));
  EXPECT_EQ(cast_one(block_of({2}), 0), mxfp4_of({6}, 126));
  EXPECT_EQ(cast_one(block_of({-0.5f, 0.25f}), 0), mxfp4_of({14, 4}, 124));
  EXPECT_EQ(cast_one(block_of({1.5f}), 0), mxfp4_of({5}, 126));  // 3, where it could be 6
  EXPECT_EQ(cast_one(block_of({3, 2, 1, 0.5f}), 0), mxfp4_of({5, 4, 2, 1}, 127));
  EXPECT_EQ(cast_one(block_of({6, 0.5f}), 0), mxfp4_of({7, 1}, 127));
  EXPECT_EQ(cast_one(block_of({6, 1.5f}), 0), mxfp4_of({7, 3}, 127));
  EXPECT_EQ(cast_one(block_of({6, 1}), 0), mxfp4_of({5, 1}, 128));
}

TEST(Fp8ToMxfp4, ZerosKeepTheirSignsAndGetTheByteZero) {
  EXPECT_EQ(cast_one(block_of({0, -0.0f}), 5), mxfp4_of({0, 8}, 0));
  EXPECT_EQ(cast_one(block_of({-0.0f, 4, -0.0f}), 5), mxfp4_of({8, 6, 8}, 132));
}

TEST(Fp8ToMxfp4, OtherNumbersDoNotFit) {
  for (const float odd : {5.0f, 7.0f, 9.0f, 1.25f, 1.125f, 0.75f * 0x1p-2f, 0.25f, -5.0f, 8.0f}) {
    EXPECT_EQ(cast_one(block_of({6, 0.5f, 1.5f, odd}), 0), std::nullopt) << odd;
  }
  EXPECT_EQ(cast_one(block_of({5}), 0), std::nullopt);
  EXPECT_EQ(cast_one(block_of({5 * 0x1p-9f}), 0), std::nullopt);  // subnormal
  Bytes nan = block_of({6, 3});
  for (const uint8_t code : Bytes{0x7f, 0xff}) {
    nan[20] = code;
    EXPECT_EQ(cast_one(nan, 0), std::nullopt);
  }
}

// Blocks of one tile whose scales are far apart reach down to E4M3's subnormals.
TEST(Fp8ToMxfp4, BlocksOfATileHaveEachTheirOwnScale) {
  for (const size_t rows : {1, 3, 130, 300}) {
    for (const auto& [tile_rows, tile_cols] :
         {std::pair<size_t, size_t>{128, 128}, {1, 32}, {32, 32}, {1, 4096}}) {
      constexpr size_t kCols = 160;
      Mxfp4 source = {random_bytes(rows * kCols / 2, 1), random_bytes(rows * kCols / 32, 2)};
      for (size_t block = 0; block < source.scales.size(); ++block) {
        source.scales[block] = static_cast<uint8_t>(100 + source.scales[block] % 15);
        source.codes[16 * block + 3] = 0x17;  // 6 and 0.5: only this scale fits
      }
      const size_t tiles = (rows + tile_rows - 1) / tile_rows * ((kCols + tile_cols - 1) / tile_cols);
      const std::vector<int> exponents(tiles, 114 - 127 - 6);
      const Bytes codes = as_fp8(source, kCols, tile_rows, tile_cols, exponents), scales = e8m0(exponents);
      const Fp8BlockView view = {.codes = codes.data(),
                                 .scales = scales.data(),
                                 .rows = rows,
                                 .cols = kCols,
                                 .tile_rows = tile_rows,
                                 .tile_cols = tile_cols};
      EXPECT_EQ(cast(view), source) << rows << " " << tile_rows << " " << tile_cols;
      if (rows < 131) continue;
      Mxfp4 some = {Bytes(5 * kCols / 2), Bytes(5 * kCols / 32)};
      EXPECT_EQ(cast_fp8_to_mxfp4(view, 126, 5, some.codes.data(), some.scales.data()), std::nullopt);
      EXPECT_TRUE(
          std::equal(some.scales.begin(), some.scales.end(), source.scales.begin() + 126 * kCols / 32));
      EXPECT_TRUE(std::equal(some.codes.begin(), some.codes.end(), source.codes.begin() + 126 * kCols / 2));
    }
  }
}

TEST(Fp8ToMxfp4, ScalesMayBeAnyPowersOfTwo) {
  const Mxfp4 block = all_codes(120);
  const Bytes codes = as_fp8(block, 32, 1, 32, {-10});
  const auto cast_with = [&](ScaleType type, const void* scale) {
    return cast({.codes = codes.data(), .scales = scale, .scale_type = type, .rows = 1, .cols = 32});
  };
  const float f32 = 0x1p-10f;
  EXPECT_EQ(cast_with(ScaleType::kF32, &f32), block);
  const bf16 narrow = to_bf16(f32);
  EXPECT_EQ(cast_with(ScaleType::kBF16, &narrow), block);
  using Limits = std::numeric_limits<float>;
  for (const float scale : {0.1f, -f32, std::nextafter(f32, 1.0f), 0.0f, -0.0f, Limits::infinity(),
                            Limits::quiet_NaN(), Limits::denorm_min()}) {
    EXPECT_EQ(cast_with(ScaleType::kF32, &scale), std::nullopt) << scale;
  }
  const uint8_t nan = 255;
  EXPECT_EQ(cast_with(ScaleType::kE8M0, &nan), std::nullopt);
}

TEST(Fp8ToMxfp4, AScaleOverZerosNeedBeNoPowerOfTwo) {
  const Bytes zeros(32);
  const auto cast_with = [&](float scale) {
    return cast(
        {.codes = zeros.data(), .scales = &scale, .scale_type = ScaleType::kF32, .rows = 1, .cols = 32});
  };
  for (const float scale : {0.1f, 0.0f, 1e-40f}) EXPECT_EQ(cast_with(scale), mxfp4_of({}, 0)) << scale;
  for (const float scale : {-0.1f, -0.0f, INFINITY, NAN}) EXPECT_EQ(cast_with(scale), std::nullopt) << scale;
}

TEST(Fp8ToMxfp4, NamesTheFirstBlockThatDoesNotFit) {
  const Mxfp4 source = {Bytes(6 * 160 / 2, 0x71), Bytes(6 * 5, 120)};
  const std::vector<int> exponents(6 * 2, -10);
  Bytes codes = as_fp8(source, 160, 1, 128, exponents);
  const Bytes scales = e8m0(exponents);
  codes[3 * 160 + 65] = 0x3a;  // 1.25
  codes[4 * 160] = 0x7f;
  const Fp8BlockView view = {
      .codes = codes.data(), .scales = scales.data(), .rows = 6, .cols = 160, .tile_rows = 1};
  Mxfp4 made = {Bytes(480), Bytes(30)};
  for (const auto kernel : {cast_fp8_to_mxfp4, cast_fp8_to_mxfp4_ref}) {
    EXPECT_EQ(kernel(view, 0, 6, made.codes.data(), made.scales.data()), 3u * 5 + 2);
    EXPECT_EQ(kernel(view, 2, 3, made.codes.data(), made.scales.data()), 5u + 2);
    EXPECT_EQ(kernel(view, 4, 1, made.codes.data(), made.scales.data()), 0u);
    EXPECT_EQ(kernel(view, 0, 3, made.codes.data(), made.scales.data()), std::nullopt);
  }
}

// Of random codes, and of such as nearly fit.
TEST(Fp8ToMxfp4, DecidesAsTheDefinitionAndChangesNoValue) {
  size_t fitting = 0;
  for (uint32_t seed = 0; seed < 20'000; ++seed) {
    Bytes codes = random_bytes(32, seed);
    const Bytes scale = {random_bytes(1, seed + 77)[0]};
    const uint8_t mask = seed % 2 == 0 ? 0xff : 0x9c;  // whole, or of few mantissas and exponents
    for (uint8_t& code : codes) code = static_cast<uint8_t>(seed % 3 == 0 ? code : (code & mask) | 0x40);
    for (size_t i = 1 + seed % 7; i < 32; ++i) codes[i] = codes[i % (1 + seed % 7)];
    const Fp8BlockView view = {.codes = codes.data(), .scales = scale.data(), .rows = 1, .cols = 32};
    const std::optional<Mxfp4> made = cast(view);
    if (!made) continue;
    ++fitting;
    float values[32], expected[32];
    dequantize_mxfp4_ref({made->codes.data(), made->scales.data(), 1, 32}, 0, 1, values, 32);
    dequantize_fp8_block_ref(view, 0, 1, expected, 32);
    ASSERT_EQ(first_difference(values, expected, 32), 32u) << seed;
  }
  EXPECT_GT(fitting, 1000u);
  EXPECT_LT(fitting, 19'000u);
}

TEST(Fp8ToMxfp4, BlocksLieInOneTileEach) {
  EXPECT_TRUE(has_blocks_of_32(160, 128));
  EXPECT_TRUE(has_blocks_of_32(160, 32));
  EXPECT_TRUE(has_blocks_of_32(160, 160));
  EXPECT_TRUE(has_blocks_of_32(160, 1000));
  EXPECT_FALSE(has_blocks_of_32(160, 48));
  EXPECT_FALSE(has_blocks_of_32(160, 16));
  EXPECT_FALSE(has_blocks_of_32(144, 16));
}

}  // namespace
}  // namespace nibblecast
