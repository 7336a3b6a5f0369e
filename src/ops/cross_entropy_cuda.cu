#include "ops/block_reduce.cuh"
#include "ops/cross_entropy_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 128;

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
  largest = reduce_block<kThreads>(largest, [](float a, float b) { return fmaxf(a, b); });
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) sum += double{expf(logits[i] - largest)};
  sum = reduce_block<kThreads>(sum, [](double a, double b) { return a + b; });
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
