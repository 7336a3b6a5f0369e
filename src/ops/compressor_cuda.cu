#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "ops/compressor_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kWarp = 32, kMostThreads = 512;

// Tokens and channel offset of one of the windows that make an entry.
struct Slots {
  size_t first_token, channel;
};

__device__ uint32_t windows_of(const CompressorShape& shape, size_t entry, Slots (&windows)[2]) {
  uint32_t count = 0;
  if (shape.overlap && entry > 0) windows[count++] = {(entry - 1) * shape.ratio, 0};
  windows[count++] = {entry * shape.ratio, shape.overlap ? shape.dim : 0};
  return count;
}

// One channel of compress_window().
__device__ float compress(const CompressorView& compressor, const float* values, const float* gates,
                          size_t entry, size_t own_channel) {
  const CompressorShape& shape = compressor.shape;
  const size_t stride = shape.channels();
  Slots windows[2];
  const uint32_t count = windows_of(shape, entry, windows);
  const auto each_slot = [&](const auto& f) {
    for (uint32_t window = 0; window < count; ++window) {
      const size_t channel = windows[window].channel + own_channel;
#pragma unroll 8
      for (size_t slot = 0; slot < shape.ratio; ++slot) {
        const size_t at = (windows[window].first_token + slot) * stride + channel;
        f(gates[at] + compressor.ape[slot * stride + channel], at);
      }
    }
  };
  float largest = -INFINITY, total = 0, sum = 0;
  each_slot([&](float gate, size_t) { largest = fmaxf(largest, gate); });
  each_slot([&](float gate, size_t at) {
    const float weight = expf(gate - largest);
    total += weight;
    sum += weight * values[at];
  });
  return sum / total;
}

// Of all threads, in one order, to all of them.
__device__ float block_sum(float value) {
  __shared__ float sums[kWarp];
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (uint32_t warp = 0; warp < blockDim.x / kWarp; ++warp) sum += sums[warp];
  return sum;
}

// A block of threads per entry of a row; rows with fewer entries than others leave blocks idle.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    compress_kernel(CompressorView compressor, const RowOfGroup* rows, uint32_t most_entries,
                    const float* values, const float* gates, T* entries) {
  extern __shared__ float own[];  // [dim]
  const RowOfGroup row = rows[blockIdx.x / most_entries];
  const CompressorShape& shape = compressor.shape;
  const size_t entry = blockIdx.x % most_entries, dim = shape.dim;
  if (entry >= row.length / shape.ratio) return;
  const size_t first_value = row.begin * shape.channels();
  float squares = 0;
  for (size_t channel = threadIdx.x; channel < dim; channel += blockDim.x) {
    const float value = compress(compressor, values + first_value, gates + first_value, entry, channel);
    own[channel] = value;
    squares += value * value;
  }
  const float mean = block_sum(squares) / static_cast<float>(dim);
  const float factor = 1.0f / sqrtf(mean + compressor.eps);
  const size_t first_turned = dim - compressor.rope.dims();
  T* out = entries + (row.first_entry + entry) * dim;
  for (size_t channel = 2 * threadIdx.x; channel < dim; channel += 2 * blockDim.x) {
    float a = own[channel] * factor * compressor.norm[channel];
    float b = own[channel + 1] * factor * compressor.norm[channel + 1];
    if (channel >= first_turned) {
      const Rope::Turn turn =
          compressor.rope.turns[entry * shape.ratio * compressor.rope.pairs + (channel - first_turned) / 2];
      const float x = a, y = b;
      a = x * turn.cos - y * turn.sin;
      b = x * turn.sin + y * turn.cos;
    }
    out[channel] = from_float<T>(a);
    out[channel + 1] = from_float<T>(b);
  }
}

}  // namespace

template <class T>
void compress_cuda(CudaStreamHandle stream, const CompressorView& compressor, const RowOfGroup* rows,
                   size_t row_count, size_t most_entries, const float* values, const float* gates,
                   T* entries) {
  if (row_count * most_entries == 0) return;
  const uint32_t dim = static_cast<uint32_t>(compressor.shape.dim);
  const uint32_t threads = std::min((dim + kWarp - 1) / kWarp * kWarp, kMostThreads);
  compress_kernel<<<static_cast<uint32_t>(row_count * most_entries), threads, dim * sizeof(float), stream>>>(
      compressor, rows, static_cast<uint32_t>(most_entries), values, gates, entries);
  check_cuda_launch("compress_kernel");
}

template void compress_cuda(CudaStreamHandle, const CompressorView&, const RowOfGroup*, size_t, size_t,
                            const float*, const float*, float*);
template void compress_cuda(CudaStreamHandle, const CompressorView&, const RowOfGroup*, size_t, size_t,
                            const float*, const float*, bf16*);

}  // namespace nibblecast
