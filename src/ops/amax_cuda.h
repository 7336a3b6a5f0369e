// ops/amax_cuda.h - ops/amax.h on a device: a magnitude's bits in device memory, raised by atomics. As the
// order of what is added does not matter, results are the same to the bit in every run.
#pragma once

#include "base/cuda.h"
#include "formats/bf16.h"

namespace nibblecast {

// Bits of the largest |x| seen; set to 0 before the first. A NaN is larger than infinity.
using DeviceAmax = uint32_t*;

// max |values[i]| into `amax`.
template <class T>
void amax_cuda(CudaStreamHandle stream, const T* values, size_t count, DeviceAmax amax);

// max round(|values[row, i] * weights[row]|), in FP32 up to the rounding to T, for values [rows, width].
template <class T>
void weighted_amax_cuda(CudaStreamHandle stream, const T* values, size_t rows, size_t width,
                        const float* weights, DeviceAmax amax);

}  // namespace nibblecast
