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

}  // namespace

template <class T>
void amax_cuda(CudaStreamHandle stream, const T* values, size_t count, DeviceAmax amax) {
  if (count == 0) return;
  const bool packs = fits_packs<1>(count, values);
  (packs ? launch<T, kPackOf<T>> : launch<T, 1>)(stream, values, count, amax);
  check_cuda_launch("amax");
}

template void amax_cuda(CudaStreamHandle, const float*, size_t, DeviceAmax);
template void amax_cuda(CudaStreamHandle, const bf16*, size_t, DeviceAmax);

}  // namespace nibblecast
