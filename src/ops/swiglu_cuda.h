// ops/swiglu_cuda.h - ops/swiglu.h on a device, for rows of gate and up side by side.
#pragma once

#include "ops/activation_cuda.h"

namespace nibblecast {

// gate_up [rows, 2 * inner] F32: a row's gates, then its ups. weights [rows] or null (1) -> out [rows,
// inner]. Into the amaxes: what would enter the next product, rounded to T, without and with the weight.
template <class T>
void swiglu_cuda(CudaStreamHandle stream, const float* gate_up, size_t rows, size_t inner, float limit,
                 const float* weights, T* out, DeviceAmax unweighted, DeviceAmax weighted) {
  activate_cuda(stream, {.limit = limit}, gate_up, rows, inner, weights, out, unweighted, weighted);
}

}  // namespace nibblecast
