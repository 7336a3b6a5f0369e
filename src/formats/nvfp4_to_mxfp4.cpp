// A copy and a lookup, as the cast itself: no version per instruction set.
#include "formats/nvfp4_to_mxfp4.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace nibblecast {
namespace {

constexpr size_t kBlockBytes = 16;  // 32 nibbles
constexpr int16_t kNoPower = -1, kBeyond = -2;

bool is_power_of_two(float x) {
  int exponent = 0;
  return x > 0 && std::isfinite(x) && std::frexp(x, &exponent) == 0.5f;
}

// For each E4M3 byte the E8M0 byte of the same scale, or kNoPower, or kBeyond.
std::array<int16_t, 256> make_bytes(float scale_2) {
  std::array<int16_t, 256> bytes;
  for (int code = 0; code < 256; ++code) {
    const float scale = decode_e4m3(static_cast<uint8_t>(code));
    const int byte = is_power_of_two(scale) ? std::ilogb(scale) + std::ilogb(scale_2) + 127 : kNoPower;
    bytes[code] = static_cast<int16_t>(!is_power_of_two(scale)  ? kNoPower
                                       : byte < 0 || byte > 254 ? kBeyond
                                                                : byte);
  }
  return bytes;
}

bool is_zero(const uint8_t* block) {
  uint64_t words[2];
  std::memcpy(words, block, sizeof words);
  return ((words[0] | words[1]) & 0x7777777777777777) == 0;
}

bool is_nan(uint8_t e4m3) { return (e4m3 & 0x7f) == 0x7f; }

}  // namespace

std::optional<MxfpMisfit> cast_nvfp4_to_mxfp4(const Nvfp4View& source, size_t row, size_t count,
                                              ZeroBlocks zero_blocks, uint8_t* codes, uint8_t* scales) {
  assert(source.cols % 32 == 0 && row + count <= source.rows);
  const size_t blocks_in_row = source.cols / 32, blocks = count * blocks_in_row;
  if (blocks == 0) return {};
  if (!is_power_of_two(source.scale_2)) return MxfpMisfit{row, 0, MxfpMisfit::kGlobalScale};
  const std::array<int16_t, 256> bytes = make_bytes(source.scale_2);
  const float scale_of_byte_0 = std::clamp(0x1p-127f / source.scale_2, 0x1p-9f, 448.0f);
  const uint8_t* from_codes = source.codes + row * blocks_in_row * kBlockBytes;
  const uint8_t* from_scales = source.block_scales + row * blocks_in_row * 2;
  for (size_t block = 0; block < blocks; ++block) {
    const uint8_t first = from_scales[2 * block], second = from_scales[2 * block + 1];
    const bool zero = is_zero(from_codes + block * kBlockBytes) && !is_nan(first) && !is_nan(second);
    const auto misfit = [&](MxfpMisfit::Reason reason) {
      return MxfpMisfit{row + block / blocks_in_row, block % blocks_in_row, reason};
    };
    const bool byte_0 = zero && (zero_blocks == ZeroBlocks::kByteZero ||
                                 (first == second && decode_e4m3(first) == scale_of_byte_0));
    if (!byte_0) {
      if (first != second) return misfit(MxfpMisfit::kHalvesDiffer);
      if (bytes[first] == kNoPower) return misfit(MxfpMisfit::kNoPowerOfTwo);
      if (bytes[first] == kBeyond) return misfit(MxfpMisfit::kOutOfRange);
    }
    scales[block] = byte_0 ? 0 : static_cast<uint8_t>(bytes[first]);
  }
  if (codes != from_codes) std::memcpy(codes, from_codes, blocks * kBlockBytes);
  return {};
}

}  // namespace nibblecast
