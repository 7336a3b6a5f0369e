#include <limits>

#include "ops/activation_cuda.h"
#include "ops/device_common.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

template <class T>
struct ActivationRows {
  const float* inputs;
  size_t rows;
  uint32_t inner;
  float bound;
  const float* weights;  // may be null
  T* out;
  DeviceAmax unweighted, weighted;
};

template <ActivationKind kKind>
__device__ float activated(float g, float u, float bound) {
  u = u > bound ? bound : u;
  u = u < -bound ? -bound : u;
  if constexpr (kKind == ActivationKind::kRelu2) {
    return u < 0.0f ? 0.0f : u * u;
  } else {
    g = g > bound ? bound : g;
    float exponent = g;
    // x/2 (1 + tanh(y)) is x / (1 + exp(-2 y)).
    if constexpr (kKind == ActivationKind::kGeluTanh)
      exponent = 1.5957691216f * (g + 0.044715f * (g * g * g));
    return g / (1.0f + expf(-exponent)) * u;
  }
}

template <ActivationKind kKind, class T, int kPack>
__global__ void __launch_bounds__(kThreads) activation_kernel(ActivationRows<T> task) {
  const size_t row = row_of_thread();
  if (row >= task.rows) return;
  constexpr bool kGated = kKind != ActivationKind::kRelu2;
  const float* __restrict__ gate = task.inputs + row * (kGated ? 2 : 1) * task.inner;
  const float* __restrict__ up = kGated ? gate + task.inner : gate;
  T* __restrict__ out = task.out + row * task.inner;
  const float weight = task.weights == nullptr ? 1.0f : task.weights[row];
  uint32_t largest = 0, largest_weighted = 0;
#pragma unroll 2
  for (uint32_t at = threadIdx.x * kPack; at < task.inner; at += blockDim.x * kPack) {
    const Pack<float, kPack> g = load_pack<kPack>(gate + at), u = load_pack<kPack>(up + at);
    float values[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float a = activated<kKind>(g.at(i), u.at(i), task.bound);
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

template <ActivationKind kKind, class T>
void launch(CudaStreamHandle stream, const ActivationRows<T>& task) {
  constexpr int kPack = kPackOf<float>;
  const bool packs = fits_packs<kPack>(task.inner, task.inputs, task.out);
  const RowGrid grid(task.rows, even_threads(packs ? task.inner / kPack : task.inner, kThreads));
  const auto kernel = packs ? activation_kernel<kKind, T, kPack> : activation_kernel<kKind, T, 1>;
  kernel<<<grid.blocks, grid.block, 0, stream>>>(task);
}

}  // namespace

template <class T>
void activate_cuda(CudaStreamHandle stream, const Activation& activation, const float* inputs, size_t rows,
                   size_t inner, const float* weights, T* out, DeviceAmax unweighted, DeviceAmax weighted) {
  if (rows == 0 || inner == 0) return;
  const float bound = activation.limit > 0 ? activation.limit : std::numeric_limits<float>::infinity();
  const ActivationRows<T> task{inputs,     rows,    static_cast<uint32_t>(inner), bound, weights, out,
                               unweighted, weighted};
  switch (activation.kind) {
    case ActivationKind::kSilu:
      launch<ActivationKind::kSilu>(stream, task);
      break;
    case ActivationKind::kGeluTanh:
      launch<ActivationKind::kGeluTanh>(stream, task);
      break;
    case ActivationKind::kRelu2:
      launch<ActivationKind::kRelu2>(stream, task);
      break;
  }
  check_cuda_launch("activation");
}

template void activate_cuda(CudaStreamHandle, const Activation&, const float*, size_t, size_t, const float*,
                            float*, DeviceAmax, DeviceAmax);
template void activate_cuda(CudaStreamHandle, const Activation&, const float*, size_t, size_t, const float*,
                            bf16*, DeviceAmax, DeviceAmax);

}  // namespace nibblecast
