// ops/activation_cuda.h - ops/activation.h on a device, for rows of gate and up side by side.
#pragma once

#include "ops/activation.h"
#include "ops/amax_cuda.h"

namespace nibblecast {

// inputs [rows, 2 * inner] F32: a row's gates, then its ups; [rows, inner] where there is no gate. weights
// [rows] or null (1) -> out [rows, inner]. Into the amaxes: what would enter the next product, rounded to T,
// without and with the weight.
template <class T>
void activate_cuda(CudaStreamHandle stream, const Activation& activation, const float* inputs, size_t rows,
                   size_t inner, const float* weights, T* out, DeviceAmax unweighted, DeviceAmax weighted);

}  // namespace nibblecast
