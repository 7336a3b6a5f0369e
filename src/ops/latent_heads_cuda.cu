#include "ops/device_common.cuh"
#include "ops/latent_heads_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

template <class T>
struct Spread {
  uint32_t heads, key, shared, value;
  const float* expanded;
  const T* shared_channels;
  size_t rows;  // heads of all tokens
  T *keys, *values;
};

// A head a row.
template <class T>
__global__ void __launch_bounds__(kThreads) spread(Spread<T> task) {
  const size_t row = row_of_thread();
  if (row >= task.rows) return;
  const float* from = task.expanded + row * (task.key + task.value);
  const T* shared = task.shared_channels + row / task.heads * task.shared;
  T* key = task.keys + row * (task.key + task.shared);
  T* value = task.values + row * task.value;
  for (uint32_t i = threadIdx.x; i < task.key; i += blockDim.x) key[i] = from_float<T>(from[i]);
  for (uint32_t i = threadIdx.x; i < task.shared; i += blockDim.x) key[task.key + i] = shared[i];
  for (uint32_t i = threadIdx.x; i < task.value; i += blockDim.x)
    value[i] = from_float<T>(from[task.key + i]);
}

}  // namespace

template <class T>
void spread_latent_cuda(CudaStreamHandle stream, const LatentHeads& shape, const float* expanded,
                        const T* shared, size_t tokens, T* keys, T* values) {
  const size_t rows = tokens * shape.heads;
  if (rows == 0) return;
  const Spread<T> task{static_cast<uint32_t>(shape.heads),
                       static_cast<uint32_t>(shape.key),
                       static_cast<uint32_t>(shape.shared),
                       static_cast<uint32_t>(shape.value),
                       expanded,
                       shared,
                       rows,
                       keys,
                       values};
  const RowGrid grid(rows, kWarp);
  spread<<<grid.blocks, grid.block, 0, stream>>>(task);
  check_cuda_launch("spread_latent");
}

template void spread_latent_cuda(CudaStreamHandle, const LatentHeads&, const float*, const float*, size_t,
                                 float*, float*);
template void spread_latent_cuda(CudaStreamHandle, const LatentHeads&, const float*, const bf16*, size_t,
                                 bf16*, bf16*);

}  // namespace nibblecast
