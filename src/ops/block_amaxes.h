// ops/block_amaxes.h - how large the blocks of 16 of a linear's input are: how many have which largest
// magnitude. From it follows an input_scale that a share of the blocks does not exceed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {

class BlockAmaxes {
 public:
  // Of the whole blocks of each row of x [rows, width]. T: float or bf16. Magnitudes are counted as BF16,
  // FP32 ones rounded up to it.
  template <class T>
  void add(const T* x, size_t rows, size_t width);

  uint64_t blocks() const;  // that were added
  // The least magnitude that at least `share`, in (0, 1], of the blocks that are not all zero do not exceed;
  // 0 where there are none.
  float percentile(double share) const;

 private:
  std::vector<uint64_t> counts_;  // by the BF16's bits; none before the first add()
};

}  // namespace nibblecast
