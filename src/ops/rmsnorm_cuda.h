// ops/rmsnorm_cuda.h - ops/rmsnorm.h on a device, row by row, and RoPE where it follows at once. FP32, one
// rounding at the end. A row's result depends on nothing but the row.
#pragma once

#include <cstdint>

#include "ops/amax_cuda.h"
#include "ops/rmsnorm.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

// y[row] = rmsnorm(x[row]) * weight for x [rows, width]. `weight` [width] may be null: no weight. `seen` may
// be null; else it gets max |y|. y may be x where From is T.
template <class From, class T>
void rmsnorm_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width, const float* weight,
                  float eps, T* y, DeviceAmax seen);

// The same with a weight of any use.
template <class From, class T>
void rmsnorm_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width, const float* weight,
                  NormWeight use, float eps, T* y, DeviceAmax seen);

// As the first, then the last rope.dims() channels turned by positions[row], in pairs of neighbours, before
// the rounding.
template <class From, class T>
void norm_and_turn_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width,
                        const float* weight, float eps, const RopeView& rope, const uint32_t* positions,
                        T* y);

}  // namespace nibblecast
