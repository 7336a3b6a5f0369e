// ops/block_reduce.cuh - one value of each thread of a block to one that all of them have.
#pragma once

#include "ops/device_common.cuh"

namespace nibblecast {

// Of a block of kThreads, in one order. f is commutative, so that both of a pair get the same.
template <uint32_t kThreads, class V, class F>
__device__ V reduce_block(V value, const F& f) {
  __shared__ V values[kThreads / kWarp];
#pragma unroll
  for (uint32_t step = kWarp / 2; step > 0; step /= 2)
    value = f(value, __shfl_xor_sync(kAllLanes, value, step));
  __syncthreads();  // the last call's values have been read
  if (threadIdx.x % kWarp == 0) values[threadIdx.x / kWarp] = value;
  __syncthreads();
  V result = values[0];
#pragma unroll
  for (uint32_t warp = 1; warp < kThreads / kWarp; ++warp) result = f(result, values[warp]);
  return result;
}

}  // namespace nibblecast
