#include "formats/nvfp4.h"

#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "formats/encode_block.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::encode_block;
using testing::EncodedBlock;

template <class F>
std::array<float, 16> bf16_values(const F& f) {
  std::array<float, 16> values;
  for (int i = 0; i < 16; ++i) values[i] = to_float(to_bf16(static_cast<float>(f(i))));
  return values;
}

TEST(Nvfp4, EncodesAsModelOpt) {
  const float scale_2 = nvfp4_global_scale(1.0f);
  EXPECT_EQ(std::bit_cast<uint32_t>(scale_2), 0x39c30c31u);
  EXPECT_EQ(encode_block(bf16_values([](int i) { return 0.01 * i * (i % 2 == 0 ? 1 : -1); }), scale_2),
            (EncodedBlock{0x68, {0x90, 0xb2, 0xc3, 0xd5, 0xe5, 0xe6, 0xf7, 0xf7}}));
  EXPECT_EQ(encode_block(bf16_values([](int) { return 0.0; }), scale_2), (EncodedBlock{0x38, {}}));
  EXPECT_EQ(encode_block(bf16_values([](int i) { return 1.0 / (i + 1); }), scale_2),
            (EncodedBlock{0x7e, {0x57, 0x34, 0x22, 0x22, 0x11, 0x11, 0x11, 0x11}}));
  EXPECT_EQ(encode_block(bf16_values([](int i) { return -0.0001 * i; }), scale_2),
            (EncodedBlock{0x33, {0x90, 0xaa, 0xcb, 0xdc, 0xed, 0xee, 0xfe, 0xff}}));
  EXPECT_EQ(encode_block({1.0f, -0.0f, 1e-4f, -1e-4f}, scale_2), (EncodedBlock{0x7e, {0x07, 0x80}}));
}

TEST(Nvfp4, DequantizesEveryCodeAtEveryScale) {
  constexpr size_t kCols = 32;
  std::vector<uint8_t> codes, scales;
  for (int scale = 0; scale < 256; ++scale) {  // a row for each: codes 0 ... 15, twice
    for (int i = 0; i < 16; ++i) codes.push_back(static_cast<uint8_t>((2 * i % 16) | (2 * i + 1) % 16 << 4));
    scales.insert(scales.end(), 2, static_cast<uint8_t>(scale));
  }
  const float scale_2 = 0.0123f;
  const Nvfp4View view = {codes.data(), scales.data(), scale_2, 256, kCols};
  constexpr size_t kStride = kCols + 3;
  std::vector<float> out(256 * kStride);
  std::vector<bf16> narrow(256 * kStride);
  dequantize_nvfp4_ref(view, 0, 256, out.data(), kStride);
  dequantize_nvfp4_ref(view, 0, 256, narrow.data(), kStride);
  for (size_t row = 0; row < 256; ++row) {
    for (size_t col = 0; col < kCols; ++col) {
      const float expected = decode_e2m1(col % 16) * (decode_e4m3(static_cast<uint8_t>(row)) * scale_2);
      const float found = out[row * kStride + col];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(found)) << row << ' ' << col;
      } else {
        ASSERT_EQ(found, expected) << row << ' ' << col;
      }
      ASSERT_EQ(narrow[row * kStride + col].bits, to_bf16(found).bits) << row << ' ' << col;
    }
  }
  std::vector<float> part(2 * kCols);
  dequantize_nvfp4_ref(view, 100, 2, part.data(), kCols);
  EXPECT_EQ(part[33], out[101 * kStride + 1]);
}

}  // namespace
}  // namespace nibblecast
