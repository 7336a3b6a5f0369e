#include "ops/block_reduce.cuh"
#include "ops/error_sums_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

// A block per token.
template <class T>
__global__ void __launch_bounds__(kThreads)
    token_errors_kernel(const T* __restrict__ all_a, const T* __restrict__ all_b, size_t width,
                        ErrorSums* sums) {
  const T* __restrict__ a = all_a + blockIdx.x * width;
  const T* __restrict__ b = all_b + blockIdx.x * width;
  double a2 = 0, b2 = 0, ab = 0, d2 = 0;
  for (size_t i = threadIdx.x; i < width; i += kThreads) {
    const double x = to_float(a[i]), y = to_float(b[i]);
    a2 += x * x;
    b2 += y * y;
    ab += x * y;
    d2 += (x - y) * (x - y);
  }
  const auto sum = [](double x, double y) { return x + y; };
  a2 = reduce_block<kThreads>(a2, sum);
  b2 = reduce_block<kThreads>(b2, sum);
  ab = reduce_block<kThreads>(ab, sum);
  d2 = reduce_block<kThreads>(d2, sum);
  if (threadIdx.x != 0) return;
  ErrorSums& to = sums[blockIdx.x];
  to.a2 = a2, to.b2 = b2, to.ab = ab, to.d2 = d2;
}

}  // namespace

template <class T>
void token_errors_cuda(CudaStreamHandle stream, const T* a, const T* b, size_t tokens, size_t width,
                       ErrorSums* sums) {
  if (tokens == 0) return;
  token_errors_kernel<<<static_cast<uint32_t>(tokens), kThreads, 0, stream>>>(a, b, width, sums);
  check_cuda_launch("token_errors");
}

template void token_errors_cuda(CudaStreamHandle, const float*, const float*, size_t, size_t, ErrorSums*);
template void token_errors_cuda(CudaStreamHandle, const bf16*, const bf16*, size_t, size_t, ErrorSums*);

}  // namespace nibblecast
