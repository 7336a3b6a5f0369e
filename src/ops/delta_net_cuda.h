// ops/delta_net_cuda.h - ops/delta_net.h on a device. Sums over a head are FP32 in another order than on the
// CPU, a fixed one; a row's result depends on nothing but the row.
#pragma once

#include <cstdint>

#include "ops/amax_cuda.h"
#include "ops/compressor_cuda.h"
#include "ops/delta_net.h"

namespace nibblecast {

// Tokens [begin, begin + count) of a group of rows; `positions` [count]: of the tokens, in their rows.
struct DeltaNetChunkCuda {
  const RowOfGroup* rows = nullptr;  // of the group
  size_t row_count = 0;
  size_t group_tokens = 0;
  size_t begin = 0, count = 0;
  const uint32_t* positions = nullptr;
};

// All pointers, those of the structs too, are device memory. As delta_net(); where a row is cut, the group
// has no other. max |out| into `seen`.
template <class T>
void delta_net_cuda(CudaStreamHandle stream, const DeltaNetShape& shape, const DeltaNetVectors& vectors,
                    const DeltaNetInputs& inputs, const DeltaNetChunkCuda& chunk, const DeltaNetCarry& carry,
                    float* channels, float* o, T* out, DeviceAmax seen);

}  // namespace nibblecast
