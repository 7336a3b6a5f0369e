#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "formats/mxfp4_to_nvfp4.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

constexpr size_t kBlockBytes = 16;  // 32 nibbles

uint8_t requantize(uint8_t code, float scale, float divisor) {
  return encode_e2m1(decode_e2m1(code) * scale / divisor);
}

uint8_t clear_negative_zero(uint8_t code) { return code == 8 ? 0 : code; }

bool is_zero(const uint8_t* block) {
  return std::all_of(block, block + kBlockBytes, [](uint8_t byte) { return (byte & 0x77) == 0; });
}

}  // namespace

CastCounts cast_mxfp4_to_nvfp4_ref(const Mxfp4View& source, size_t row, size_t count, int k_max,
                                   NegativeZero negative_zero, uint8_t* codes, uint8_t* block_scales) {
  assert(source.cols % 32 == 0 && row + count <= source.rows);
  const size_t first = row * (source.cols / 32);
  const float scale_2 = std::ldexp(1.0f, k_max - 8);
  CastCounts counts;
  counts.blocks = count * (source.cols / 32);
  for (size_t block = 0; block < counts.blocks; ++block) {
    const uint8_t scale_code = source.scales[first + block];
    const float exact_scale = std::ldexp(1.0f, int{scale_code} - 127 - (k_max - 8));
    const float block_scale = std::clamp(exact_scale, 0x1p-9f, 448.0f);
    std::memset(block_scales + 2 * block, encode_e4m3(block_scale), 2);

    uint8_t in[kBlockBytes];  // a copy, since `codes` may be the source
    std::memcpy(in, source.codes + (first + block) * kBlockBytes, kBlockBytes);
    const bool zero = scale_code == 0 && is_zero(in);
    const bool lossless = zero || in_cast_window(scale_code, k_max);
    counts.zero_blocks += zero;
    counts.outside_window += !lossless;
    for (size_t j = 0; j < kBlockBytes; ++j) {
      const auto convert = [&](int nibble) -> uint8_t {
        const auto code = static_cast<uint8_t>(nibble);
        if (!lossless) return requantize(code, decode_e8m0(scale_code), block_scale * scale_2);
        return negative_zero == NegativeZero::kKeep ? code : clear_negative_zero(code);
      };
      codes[block * kBlockBytes + j] = static_cast<uint8_t>(convert(in[j] & 15) | convert(in[j] >> 4) << 4);
    }
  }
  return counts;
}

}  // namespace nibblecast
