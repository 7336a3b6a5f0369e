#include <algorithm>

#include "ops/device_common.cuh"
#include "ops/gates_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256, kMostBlocks = 4096;

template <class To>
__global__ void __launch_bounds__(kMostThreads)
    copy_columns_kernel(const float* x, size_t rows, size_t x_stride, ColumnBlocks blocks, To* y,
                        size_t y_stride) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const float* const from = x + row * x_stride + blocks.begin;
  for (uint32_t i = threadIdx.x; i < blocks.count * blocks.width; i += blockDim.x) {
    const uint32_t width = static_cast<uint32_t>(blocks.width), block = i / width;
    y[row * y_stride + i] = from_float<To>(from[block * blocks.stride + i % width]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gate_elements_kernel(const T* gates, size_t count, T* x, DeviceAmax seen) {
  uint32_t largest = 0;
  const size_t step = size_t{gridDim.x} * kThreads;
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    x[i] = from_float<T>(to_float(x[i]) / (1.0f + expf(-to_float(gates[i]))));
    largest = max(largest, magnitude(to_float(x[i])));
  }
  raise(seen, largest);
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) gate_rows_kernel(const T* x, size_t rows, const float* weight,
                                                                 uint32_t width, float* y, uint32_t y_width) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  float sum = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) sum += to_float(x[row * width + i]) * weight[i];
  const float factor = 1.0f / (1.0f + expf(-row_sum(sum)));
  for (uint32_t i = threadIdx.x; i < y_width; i += blockDim.x) y[row * y_width + i] *= factor;
}

}  // namespace

template <class To>
void copy_columns_cuda(CudaStreamHandle stream, const float* x, size_t rows, size_t x_stride,
                       const ColumnBlocks& blocks, To* y, size_t y_stride) {
  if (rows == 0 || blocks.columns() == 0) return;
  const RowGrid grid(rows, even_threads(blocks.columns(), kThreads));
  copy_columns_kernel<<<grid.blocks, grid.block, 0, stream>>>(x, rows, x_stride, blocks, y, y_stride);
  check_cuda_launch("copy_columns");
}

template <class T>
void gate_elements_cuda(CudaStreamHandle stream, const T* gates, size_t count, T* x, DeviceAmax seen) {
  if (count == 0) return;
  const auto blocks = static_cast<uint32_t>(std::min<size_t>(ceil_div(count, size_t{kThreads}), kMostBlocks));
  gate_elements_kernel<<<blocks, kThreads, 0, stream>>>(gates, count, x, seen);
  check_cuda_launch("gate_elements");
}

template <class T>
void gate_rows_cuda(CudaStreamHandle stream, const T* x, size_t rows, const float* weight, size_t width,
                    float* y, size_t y_width) {
  if (rows == 0) return;
  const RowGrid grid(rows, even_threads(std::max(width, y_width), kThreads));
  gate_rows_kernel<<<grid.blocks, grid.block, 0, stream>>>(x, rows, weight, static_cast<uint32_t>(width), y,
                                                           static_cast<uint32_t>(y_width));
  check_cuda_launch("gate_rows");
}

template void copy_columns_cuda(CudaStreamHandle, const float*, size_t, size_t, const ColumnBlocks&, float*,
                                size_t);
template void copy_columns_cuda(CudaStreamHandle, const float*, size_t, size_t, const ColumnBlocks&, bf16*,
                                size_t);
template void gate_elements_cuda(CudaStreamHandle, const float*, size_t, float*, DeviceAmax);
template void gate_elements_cuda(CudaStreamHandle, const bf16*, size_t, bf16*, DeviceAmax);
template void gate_rows_cuda(CudaStreamHandle, const float*, size_t, const float*, size_t, float*, size_t);
template void gate_rows_cuda(CudaStreamHandle, const bf16*, size_t, const float*, size_t, float*, size_t);

}  // namespace nibblecast
