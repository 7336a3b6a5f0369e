#include "ops/cross_entropy_cuda.h"
#include "ops/device_common.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 128;

// Of a block's threads, to all of them, in one order. f is commutative, so that both of a pair get the same.
template <class V, class F>
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

// A block per token.
__global__ void __launch_bounds__(kThreads)
    add_logits_kernel(const float* __restrict__ all_logits, uint32_t count, size_t stride, uint64_t first,
                      const int32_t* __restrict__ targets, CrossEntropy* states) {
  const size_t token = blockIdx.x;
  const int32_t target = targets[token];
  if (target < 0) return;
  const float* __restrict__ logits = all_logits + token * stride;
  CrossEntropy state = states[token];
  float largest = state.largest;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) largest = fmaxf(largest, logits[i]);
  largest = reduce_block(largest, [](float a, float b) { return fmaxf(a, b); });
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) sum += double{expf(logits[i] - largest)};
  sum = reduce_block(sum, [](double a, double b) { return a + b; });
  if (threadIdx.x != 0) return;
  const double before = state.sum == 0 ? 0 : state.sum * exp(double{state.largest} - double{largest});
  const uint64_t place = static_cast<uint64_t>(target) - first;  // those before wrap around
  if (place < count) state.target = logits[place];
  state.sum = before + sum;
  state.largest = largest;
  states[token] = state;
}

}  // namespace

void add_logits_cuda(CudaStreamHandle stream, const float* logits, size_t tokens, size_t count, size_t stride,
                     uint64_t first, const int32_t* targets, CrossEntropy* states) {
  if (tokens == 0 || count == 0) return;
  add_logits_kernel<<<static_cast<uint32_t>(tokens), kThreads, 0, stream>>>(
      logits, static_cast<uint32_t>(count), stride, first, targets, states);
  check_cuda_launch("add_logits");
}

}  // namespace nibblecast
