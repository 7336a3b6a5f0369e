// formats/stored_linear_cuda.h - formats/stored_linear.h on a device: the same values to the bit.
#pragma once

#include "base/cuda.h"
#include "formats/stored_linear.h"

namespace nibblecast {

// Rows [row, row + count) to out [count, cols] (row stride `out_stride` elements), all pointers of the view
// and `out` device memory. T: float or bf16. Codes and scales may be aligned to nothing but their elements.
template <class T>
void dequantize_rows_cuda(CudaStreamHandle stream, const StoredLinear& weight, size_t row, size_t count,
                          T* out, size_t out_stride);

}  // namespace nibblecast
