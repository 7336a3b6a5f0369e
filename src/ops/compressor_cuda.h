// ops/compressor_cuda.h - ops/compressor.h on a device, for all windows of several rows, with the norm, RoPE
// and rounding that follow.
#pragma once

#include <cstdint>

#include "formats/bf16.h"
#include "ops/compressor.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

// One row of a group of rows that lie one after the other.
struct RowOfGroup {
  uint32_t begin = 0, length = 0;  // its tokens, in the group
  uint32_t first_entry = 0;        // of its length / ratio entries, in the group's entries
};

struct CompressorView {
  CompressorShape shape;
  const float* ape = nullptr;   // [ratio, channels]
  const float* norm = nullptr;  // [dim]
  float eps = 0;
  RopeView rope;
};

// values, gates [tokens of the group, channels] F32; rows [rows] in device memory, most_entries the largest
// number of entries of one of them -> entries [.., dim]: entry i of a row is compress_window, RMSNorm, RoPE
// at position i * ratio, rounded once.
template <class T>
void compress_cuda(CudaStreamHandle stream, const CompressorView& compressor, const RowOfGroup* rows,
                   size_t row_count, size_t most_entries, const float* values, const float* gates,
                   T* entries);

}  // namespace nibblecast
