#include <cmath>

#include "ops/block_reduce.cuh"
#include "ops/logits_divergence_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kTops = 5;
using Top = LogitsDivergence::Top;

// `largest` may be the maximum so far or a new one.
__device__ void raise_maxima(float largest_a, float largest_b, LogitsDivergence& state) {
  if (state.sum_a != 0) {
    const double factor = exp(double{state.max_a} - double{largest_a});
    state.sum_a *= factor;
    state.cross *= factor;
    state.sum_b *= exp(double{state.max_b} - double{largest_b});
  }
  state.max_a = largest_a;
  state.max_b = largest_b;
}

// tops [count], descending; of equal logits the first.
__device__ void take_top(const float* logits, uint32_t size, uint64_t first, Top* tops, uint32_t count) {
  for (uint32_t i = 0; i < size; ++i) {
    if (!(logits[i] > tops[count - 1].logit)) continue;
    uint32_t at = count - 1;
    for (; at > 0 && logits[i] > tops[at - 1].logit; --at) tops[at] = tops[at - 1];
    tops[at].logit = logits[i];
    tops[at].token = first + i;
  }
}

// The larger one; a NaN is none.
struct Larger {
  __device__ float operator()(float x, float y) const { return fmaxf(x, y); }
};
struct Sum {
  __device__ double operator()(double x, double y) const { return x + y; }
};

__device__ float largest_of(const float* values, uint32_t count) {
  float largest = -INFINITY;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) largest = fmaxf(largest, values[i]);
  return reduce_block<kThreads>(largest, Larger());
}

// A block per token.
__global__ void __launch_bounds__(kThreads)
    add_logits_pairs_kernel(const float* __restrict__ all_a, const float* __restrict__ all_b, size_t b_stride,
                            uint32_t count, uint64_t first, LogitsDivergence* states) {
  const float* __restrict__ a = all_a + size_t{blockIdx.x} * count;
  const float* __restrict__ b = all_b + blockIdx.x * b_stride;
  LogitsDivergence& state = states[blockIdx.x];
  const float largest_a = largest_of(a, count), largest_b = largest_of(b, count);
  const float max_a = fmaxf(state.max_a, largest_a), max_b = fmaxf(state.max_b, largest_b);
  double sum_a = 0, sum_b = 0, cross = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    const double weight = exp(double{a[i]} - double{max_a});
    sum_a += weight;
    sum_b += exp(double{b[i]} - double{max_b});
    cross += weight * (double{a[i]} - double{b[i]});
  }
  sum_a = reduce_block<kThreads>(sum_a, Sum());
  sum_b = reduce_block<kThreads>(sum_b, Sum());
  cross = reduce_block<kThreads>(cross, Sum());  // all threads have read the state
  if (threadIdx.x != 0) return;
  raise_maxima(max_a, max_b, state);
  state.sum_a += sum_a;
  state.sum_b += sum_b;
  state.cross += cross;
  if (largest_a > state.top_a.logit) take_top(a, count, first, &state.top_a, 1);
  Top* const top_b = reinterpret_cast<Top*>(&state.top_b);
  if (largest_b > top_b[kTops - 1].logit) take_top(b, count, first, top_b, kTops);
}

}  // namespace

void add_logits_pairs_cuda(CudaStreamHandle stream, const float* a, const float* b, size_t b_stride,
                           size_t tokens, size_t count, uint64_t first, LogitsDivergence* states) {
  static_assert(sizeof(LogitsDivergence::top_b) == kTops * sizeof(Top));
  if (tokens == 0 || count == 0) return;
  add_logits_pairs_kernel<<<static_cast<uint32_t>(tokens), kThreads, 0, stream>>>(
      a, b, b_stride, static_cast<uint32_t>(count), first, states);
  check_cuda_launch("add_logits_pairs");
}

}  // namespace nibblecast
