// ops/gates_cuda.h - ops/gates.h on a device, for many rows. A row's result depends on nothing but the row.
#pragma once

#include "ops/amax_cuda.h"
#include "ops/gates.h"

namespace nibblecast {

// x [rows, x_stride] -> y [rows, y_stride], of which blocks.columns() are written.
template <class To>
void copy_columns_cuda(CudaStreamHandle stream, const float* x, size_t rows, size_t x_stride,
                       const ColumnBlocks& blocks, To* y, size_t y_stride);

// max |x| into `seen`.
template <class T>
void gate_elements_cuda(CudaStreamHandle stream, const T* gates, size_t count, T* x, DeviceAmax seen);

// x [rows, width], y [rows, y_width].
template <class T>
void gate_rows_cuda(CudaStreamHandle stream, const T* x, size_t rows, const float* weight, size_t width,
                    float* y, size_t y_width);

}  // namespace nibblecast
