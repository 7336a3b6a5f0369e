// pipeline/block_scales.h - how a checkpoint's NVFP4 block scales lie: by powers of two, as they are stored
// and as they count.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Of one kind of tensor (checkpoint/tensor_role.h).
struct BlockScales {
  uint64_t blocks = 0;  // that there are
  uint64_t read = 0;    // of them, that were looked at
  uint64_t zero = 0;    // of those: the scale is 0
  // The others, by floor(log2): of the E4M3 value (-9 to 8), and of that times weight_scale_2, which in a
  // block that was cast is the source's exponent.
  std::map<int, uint64_t> stored = {}, exponents = {};
};

// By kind. Of large checkpoints a sample: tensors are taken evenly, and the same ones each time, up to some
// kMostScalesRead bytes. Scales that are NaN are not counted. Errors as those of TensorReader.
inline constexpr uint64_t kMostScalesRead = 64 << 20;
std::map<std::string, BlockScales> read_block_scales(const Checkpoint& checkpoint,
                                                     uint64_t most_bytes = kMostScalesRead);

}  // namespace nibblecast
