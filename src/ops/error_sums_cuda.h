// ops/error_sums_cuda.h - ops/error_sums.h on a device; the order of sums is another one, and as fixed.
#pragma once

#include "base/cuda.h"
#include "formats/bf16.h"
#include "ops/error_sums.h"

namespace nibblecast {

// All device memory.
template <class T>
void token_errors_cuda(CudaStreamHandle stream, const T* a, const T* b, size_t tokens, size_t width,
                       ErrorSums* sums);

}  // namespace nibblecast
