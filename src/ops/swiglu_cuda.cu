#include <limits>

#include "ops/device_common.cuh"
#include "ops/swiglu_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

template <class T>
struct SwigluRows {
  const float* gate_up;
  size_t rows;
  uint32_t inner;
  float bound;
  const float* weights;  // may be null
  T* out;
  DeviceAmax unweighted, weighted;
};

__device__ float swiglu(float g, float u, float bound) {
  g = g > bound ? bound : g;
  u = u > bound ? bound : u;
  u = u < -bound ? -bound : u;
  return g / (1.0f + expf(-g)) * u;
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluRows<T> task) {
  const size_t row = row_of_thread();
  if (row >= task.rows) return;
  const float* __restrict__ gate = task.gate_up + row * 2 * task.inner;
  const float* __restrict__ up = gate + task.inner;
  T* __restrict__ out = task.out + row * task.inner;
  const float weight = task.weights == nullptr ? 1.0f : task.weights[row];
  uint32_t largest = 0, largest_weighted = 0;
#pragma unroll 2
  for (uint32_t at = threadIdx.x * kPack; at < task.inner; at += blockDim.x * kPack) {
    const Pack<float, kPack> g = load_pack<kPack>(gate + at), u = load_pack<kPack>(up + at);
    float values[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float a = swiglu(g.at(i), u.at(i), task.bound);
      largest = max(largest, magnitude(a));
      values[i] = a * weight;
    }
    const auto y = round_to_pack<T>(values);
    store_pack(out + at, y);
    largest_weighted = max(largest_weighted, largest_magnitude(y));
  }
  // Rounding keeps the order, so the largest is rounded alone.
  raise(task.unweighted, magnitude(to_float(from_float<T>(__uint_as_float(largest)))));
  raise(task.weighted, largest_weighted);
}

template <class T, int kPack>
void launch(CudaStreamHandle stream, const SwigluRows<T>& task) {
  const RowGrid grid(task.rows, even_threads(task.inner / kPack, kThreads));
  swiglu_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(task);
}

}  // namespace

template <class T>
void swiglu_cuda(CudaStreamHandle stream, const float* gate_up, size_t rows, size_t inner, float limit,
                 const float* weights, T* out, DeviceAmax unweighted, DeviceAmax weighted) {
  if (rows == 0 || inner == 0) return;
  constexpr int kPack = kPackOf<float>;
  const float bound = limit > 0 ? limit : std::numeric_limits<float>::infinity();
  const bool packs = fits_packs<kPack>(inner, gate_up, out);
  (packs ? launch<T, kPack> : launch<T, 1>)(stream, {gate_up, rows, static_cast<uint32_t>(inner), bound,
                                                     weights, out, unweighted, weighted});
  check_cuda_launch("swiglu");
}

template void swiglu_cuda(CudaStreamHandle, const float*, size_t, size_t, float, const float*, float*,
                          DeviceAmax, DeviceAmax);
template void swiglu_cuda(CudaStreamHandle, const float*, size_t, size_t, float, const float*, bf16*,
                          DeviceAmax, DeviceAmax);

}  // namespace nibblecast
