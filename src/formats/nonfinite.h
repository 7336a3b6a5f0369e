// formats/nonfinite.h - NaN and infinity among stored values.
//
// Those with all bits of the exponent set: NaN and infinity of F8_E5M2, F16, BF16, F32 and F64; of F8_E4M3
// and F8_E8M0, which have no infinity, NaN (0x7f and 0xff; 0xff). Other dtypes have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/tensor.h"

namespace nibblecast {

struct NonFinite {
  uint64_t count = 0;
  uint64_t first = 0;  // byte of the first one, where there is one

  // Takes what was found `begin` bytes after the place where `first` counts from; places ascending.
  void add(const NonFinite& found, uint64_t begin) {
    if (count == 0) first = begin + found.first;
    count += found.count;
  }
  bool operator==(const NonFinite&) const = default;
};

// Whole values, aligned to nothing.
NonFinite count_nonfinite(Dtype dtype, std::span<const std::byte> bytes);

// The definition, one value after the other.
NonFinite count_nonfinite_ref(Dtype dtype, std::span<const std::byte> bytes);

}  // namespace nibblecast
