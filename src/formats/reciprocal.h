// formats/reciprocal.h - scales that one form of NVFP4 stores and another inverts.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace nibblecast {

// F32 values, unaligned: each x becomes 1 / x, rounded once to nearest even. Twice gives x back, or a
// neighbour.
inline void invert(std::span<std::byte> values) {
  for (size_t at = 0; at + sizeof(float) <= values.size(); at += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, values.data() + at, sizeof value);
    value = 1 / value;
    std::memcpy(values.data() + at, &value, sizeof value);
  }
}

}  // namespace nibblecast
