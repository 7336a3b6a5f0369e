// tests/formats/encode_block.h - one NVFP4 block by the steps of docs/formats/nvfp4.md, "Encoding".
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/nvfp4.h"

namespace nibblecast::testing {

struct EncodedBlock {
  uint8_t scale;
  std::array<uint8_t, 8> codes;
  bool operator==(const EncodedBlock&) const = default;
};

inline EncodedBlock encode_block(const std::array<float, 16>& values, float scale_2) {
  float amax = 0;
  for (const float value : values) amax = std::max(amax, std::fabs(value));
  const float divisor = 6.0f * scale_2;
  float scale = amax / divisor;
  if (scale == 0) scale = 1;
  EncodedBlock block = {encode_e4m3(std::clamp(scale, 0x1p-9f, 448.0f)), {}};
  const float unit = decode_e4m3(block.scale) * scale_2;
  for (size_t i = 0; i < 16; i += 2) {
    block.codes[i / 2] =
        static_cast<uint8_t>(encode_e2m1(values[i] / unit) | encode_e2m1(values[i + 1] / unit) << 4);
  }
  return block;
}

}  // namespace nibblecast::testing
