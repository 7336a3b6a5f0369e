#include <cuda_runtime.h>

#include <cassert>

#include "formats/bf16.h"
#include "formats/codes.cuh"
#include "formats/nvfp4_input_cuda.h"

namespace nibblecast {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBlock = 16;
constexpr float kLargestScale = 448, kLeastScale = 1e-5f;

__device__ float wide(float x) { return x; }
__device__ float wide(bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ void narrow(float x, float& to) { to = x; }
// To nearest even; x is finite.
__device__ void narrow(float x, bf16& to) {
  const uint32_t bits = __float_as_uint(x);
  to.bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A block of 16 values a thread.
template <class T>
__global__ void round_blocks(const T* x, size_t blocks, float input_scale, T* y) {
  const size_t block = size_t{blockIdx.x} * kThreads + threadIdx.x;
  if (block >= blocks) return;
  float values[kBlock], amax = 0;
  for (unsigned i = 0; i < kBlock; ++i) {
    values[i] = wide(x[block * kBlock + i]);
    amax = fmaxf(amax, fabsf(values[i]));
  }
  const float exact = fminf(amax / (6.0f * input_scale), kLargestScale);
  float scale = e4m3_value(e4m3_code(exact)) * input_scale;
  if (!(scale >= kLeastScale)) scale = 1;
  for (unsigned i = 0; i < kBlock; ++i) {
    const float magnitude = round_e2m1(fabsf(values[i]) / scale).value * scale;
    narrow(values[i] >= 0 ? magnitude : -magnitude, y[block * kBlock + i]);
  }
}

}  // namespace

template <class T>
void round_nvfp4_input_cuda(CudaStreamHandle stream, const T* x, size_t count, float input_scale, T* y) {
  assert(count % kBlock == 0);
  const size_t blocks = count / kBlock;
  if (blocks == 0) return;
  const auto grid = static_cast<unsigned>((blocks + kThreads - 1) / kThreads);
  round_blocks<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, blocks, input_scale, y);
  check_cuda_launch("rounding the inputs of linears");
}

template void round_nvfp4_input_cuda(CudaStreamHandle, const float*, size_t, float, float*);
template void round_nvfp4_input_cuda(CudaStreamHandle, const bf16*, size_t, float, bf16*);

}  // namespace nibblecast
