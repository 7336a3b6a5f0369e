#include "ops/amax_cuda.h"
#include "ops/device_common.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kPacksAtOnce = 8;  // that a thread loads before it looks at the first

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) amax_kernel(const T* values, size_t count, DeviceAmax amax) {
  const size_t packs = count / kPack, first = size_t{blockIdx.x} * kThreads * kPacksAtOnce + threadIdx.x;
  Pack<T, kPack> held[kPacksAtOnce];
#pragma unroll
  for (uint32_t i = 0; i < kPacksAtOnce; ++i) {
    const size_t pack = first + i * kThreads;
    held[i] = pack < packs ? load_pack<kPack>(values + pack * kPack) : Pack<T, kPack>{};
  }
  uint32_t largest = 0;
#pragma unroll
  for (uint32_t i = 0; i < kPacksAtOnce; ++i) largest = max(largest, largest_magnitude(held[i]));
  if (first < count - packs * kPack) {  // what fills no pack: the first threads of the first block
    largest = max(largest, magnitude(to_float(values[packs * kPack + first])));
  }
  raise(amax, largest);
}

template <class T, int kPack>
void launch(CudaStreamHandle stream, const T* values, size_t count, DeviceAmax amax) {
  const size_t blocks = ceil_div(ceil_div(count, size_t{kPack}), size_t{kThreads} * kPacksAtOnce);
  amax_kernel<T, kPack><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(values, count, amax);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    weighted_kernel(const T* __restrict__ values, size_t rows, uint32_t width, const float* weights,
                    DeviceAmax amax) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const float weight = weights[row];
  uint32_t largest = 0;
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<T, kPack> pack = load_pack<kPack>(values + row * width + at);
    float weighted[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) weighted[i] = pack.at(i) * weight;
    largest = max(largest, largest_magnitude(round_to_pack<T>(weighted)));
  }
  raise(amax, largest);
}

template <class T, int kPack>
void launch_weighted(CudaStreamHandle stream, const T* values, size_t rows, uint32_t width,
                     const float* weights, DeviceAmax amax) {
  const RowGrid grid(rows, even_threads(width / kPack, kThreads));
  weighted_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(values, rows, width, weights, amax);
}

}  // namespace

template <class T>
void weighted_amax_cuda(CudaStreamHandle stream, const T* values, size_t rows, size_t width,
                        const float* weights, DeviceAmax amax) {
  if (rows == 0 || width == 0) return;
  const bool packs = fits_packs<kPackOf<T>>(width, values);
  (packs ? launch_weighted<T, kPackOf<T>>
         : launch_weighted<T, 1>)(stream, values, rows, static_cast<uint32_t>(width), weights, amax);
  check_cuda_launch("weighted_amax");
}

template <class T>
void amax_cuda(CudaStreamHandle stream, const T* values, size_t count, DeviceAmax amax) {
  if (count == 0) return;
  const bool packs = fits_packs<1>(count, values);
  (packs ? launch<T, kPackOf<T>> : launch<T, 1>)(stream, values, count, amax);
  check_cuda_launch("amax");
}

template void weighted_amax_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, DeviceAmax);
template void weighted_amax_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, DeviceAmax);
template void amax_cuda(CudaStreamHandle, const float*, size_t, DeviceAmax);
template void amax_cuda(CudaStreamHandle, const bf16*, size_t, DeviceAmax);

}  // namespace nibblecast
