// formats/nvfp4_input_cuda.h - formats/nvfp4_input.h on a device: the same bits.
#pragma once

#include <cstddef>

#include "base/cuda.h"

namespace nibblecast {

// x [count] -> y [count] in device memory, y may be x; both aligned to 16 values.
template <class T>
void round_nvfp4_input_cuda(CudaStreamHandle stream, const T* x, size_t count, float input_scale, T* y);

}  // namespace nibblecast
