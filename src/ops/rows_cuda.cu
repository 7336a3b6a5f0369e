#include "ops/device_common.cuh"
#include "ops/rows_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

template <class T>
struct Embedding {
  const bf16* rows;
  uint64_t first, count;
  const int32_t* ids;
  size_t tokens;
  uint32_t streams_count, width;
  T* streams;
  DeviceAmax seen;
};

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) embed_kernel(Embedding<T> task) {
  const size_t token = row_of_thread();
  if (token >= task.tokens) return;
  const uint64_t row = static_cast<uint64_t>(task.ids[token]) - task.first;  // those before wrap around
  if (row >= task.count) return;
  const bf16* from = task.rows + row * task.width;
  T* to = task.streams + token * task.streams_count * task.width;
  uint32_t largest = 0;
  for (uint32_t at = threadIdx.x * kPack; at < task.width; at += blockDim.x * kPack) {
    const Pack<bf16, kPack> x = load_pack<kPack>(from + at);
    float values[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = x.at(i);
    const auto y = round_to_pack<T>(values);
    for (uint32_t j = 0; j < task.streams_count; ++j) store_pack(to + size_t{j} * task.width + at, y);
    largest = max(largest, largest_magnitude(y));
  }
  raise(task.seen, largest);
}

template <class T, int kPack>
void launch_embed(CudaStreamHandle stream, const Embedding<T>& task) {
  const RowGrid grid(task.tokens, even_threads(task.width / kPack, kThreads));
  embed_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(task);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* __restrict__ x, uint32_t width, const uint32_t* tokens, size_t rows,
                  T* __restrict__ out, DeviceAmax seen) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const T* from = x + size_t{tokens[row]} * width;
  uint32_t largest = 0;
#pragma unroll 4
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<T, kPack> pack = load_pack<kPack>(from + at);
    store_pack(out + row * width + at, pack);
    largest = max(largest, largest_magnitude(pack));
  }
  raise(seen, largest);
}

template <class T, int kPack>
void launch_gather(CudaStreamHandle stream, const T* x, uint32_t width, const uint32_t* tokens, size_t rows,
                   T* out, DeviceAmax seen) {
  const RowGrid grid(rows, even_threads(width / kPack, kThreads));
  gather_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(x, width, tokens, rows, out, seen);
}

template <int kPack>
__global__ void __launch_bounds__(kThreads)
    scatter_add_kernel(const float* __restrict__ y, uint32_t width, const uint32_t* tokens, size_t rows,
                       const float* weights, float* __restrict__ sum) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const float weight = weights == nullptr ? 1.0f : weights[row];
  float* to = sum + size_t{tokens[row]} * width;
#pragma unroll 2
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<float, kPack> added = load_pack<kPack>(y + row * width + at);
    Pack<float, kPack> total = load_pack<kPack>(to + at);
#pragma unroll
    for (int i = 0; i < kPack; ++i) total.values[i] += added.at(i) * weight;
    store_pack(to + at, total);
  }
}

template <int kPack>
void launch_scatter_add(CudaStreamHandle stream, const float* y, uint32_t width, const uint32_t* tokens,
                        size_t rows, const float* weights, float* sum) {
  const RowGrid grid(rows, even_threads(width / kPack, kThreads));
  scatter_add_kernel<kPack><<<grid.blocks, grid.block, 0, stream>>>(y, width, tokens, rows, weights, sum);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    round_kernel(const float* __restrict__ x, size_t count, T* __restrict__ out) {
  const size_t at = (size_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (at >= count) return;
  const Pack<float, kPack> values = load_pack<kPack>(x + at);
  float wide[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) wide[i] = values.at(i);
  store_pack(out + at, round_to_pack<T>(wide));
}

template <class T, int kPack>
void launch_round(CudaStreamHandle stream, const float* x, size_t count, T* out) {
  const size_t blocks = ceil_div(count, size_t{kThreads} * kPack);
  round_kernel<T, kPack><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(x, count, out);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const float* x, size_t rows, uint32_t width, size_t stride, const float* bias, T* out) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<float, kPack> values = load_pack<kPack>(x + row * stride + at),
                             added = load_pack<kPack>(bias + at);
    float sums[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) sums[i] = values.at(i) + added.at(i);
    store_pack(out + row * stride + at, round_to_pack<T>(sums));
  }
}

template <class T, int kPack>
void launch_bias(CudaStreamHandle stream, const float* x, size_t rows, uint32_t width, size_t stride,
                 const float* bias, T* out) {
  const RowGrid grid(rows, even_threads(width / kPack, kThreads));
  bias_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(x, rows, width, stride, bias, out);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    add_rounded_kernel(const float* __restrict__ y, size_t rows, uint32_t width, T* x, DeviceAmax seen) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  uint32_t largest = 0;
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<float, kPack> added = load_pack<kPack>(y + row * width + at);
    const Pack<T, kPack> before = load_pack<kPack>(x + row * width + at);
    float sums[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) sums[i] = before.at(i) + added.at(i);
    const auto rounded = round_to_pack<T>(sums);
    store_pack(x + row * width + at, rounded);
    largest = max(largest, largest_magnitude(rounded));
  }
  raise(seen, largest);
}

template <class T, int kPack>
void launch_add_rounded(CudaStreamHandle stream, const float* y, size_t rows, uint32_t width, T* x,
                        DeviceAmax seen) {
  const RowGrid grid(rows, even_threads(width / kPack, kThreads));
  add_rounded_kernel<T, kPack><<<grid.blocks, grid.block, 0, stream>>>(y, rows, width, x, seen);
}

}  // namespace

template <class T>
void add_bias_cuda(CudaStreamHandle stream, const float* x, size_t rows, size_t width, const float* bias,
                   T* out, size_t stride) {
  if (rows == 0 || width == 0) return;
  if (stride == 0) stride = width;
  constexpr int kPack = kPackOf<float, T>;
  const bool packs = fits_packs<kPack>(width, x, bias, out) && stride % kPack == 0;
  (packs ? launch_bias<T, kPack> : launch_bias<T, 1>)(stream, x, rows, static_cast<uint32_t>(width), stride,
                                                      bias, out);
  check_cuda_launch("add_bias");
}

template <class T>
void add_rounded_cuda(CudaStreamHandle stream, const float* y, size_t rows, size_t width, T* x,
                      DeviceAmax seen) {
  if (rows == 0 || width == 0) return;
  constexpr int kPack = kPackOf<float, T>;
  const bool packs = fits_packs<kPack>(width, y, x);
  (packs ? launch_add_rounded<T, kPack> : launch_add_rounded<T, 1>)(stream, y, rows,
                                                                    static_cast<uint32_t>(width), x, seen);
  check_cuda_launch("add_rounded");
}

template <class T>
void embed_cuda(CudaStreamHandle stream, const bf16* embedding, uint64_t first, uint64_t count,
                const int32_t* ids, size_t tokens, size_t streams_count, size_t width, T* streams,
                DeviceAmax seen) {
  if (tokens == 0 || width == 0) return;
  constexpr int kPack = kPackOf<bf16, T>;
  const bool packs = fits_packs<kPack>(width, embedding, streams);
  (packs ? launch_embed<T, kPack> : launch_embed<T, 1>)(stream,
                                                        {embedding, first, count, ids, tokens,
                                                         static_cast<uint32_t>(streams_count),
                                                         static_cast<uint32_t>(width), streams, seen});
  check_cuda_launch("embed");
}

template <class T>
void gather_rows_cuda(CudaStreamHandle stream, const T* x, size_t width, const uint32_t* tokens, size_t rows,
                      T* out, DeviceAmax seen) {
  if (rows == 0 || width == 0) return;
  const bool packs = fits_packs<kPackOf<T>>(width, x, out);
  (packs ? launch_gather<T, kPackOf<T>> : launch_gather<T, 1>)(stream, x, static_cast<uint32_t>(width),
                                                               tokens, rows, out, seen);
  check_cuda_launch("gather_rows");
}

void scatter_add_rows_cuda(CudaStreamHandle stream, const float* y, size_t width, const uint32_t* tokens,
                           size_t rows, float* sum, const float* weights) {
  if (rows == 0 || width == 0) return;
  const bool packs = fits_packs<kPackOf<float>>(width, y, sum);
  (packs ? launch_scatter_add<kPackOf<float>>
         : launch_scatter_add<1>)(stream, y, static_cast<uint32_t>(width), tokens, rows, weights, sum);
  check_cuda_launch("scatter_add_rows");
}

template <class T>
void round_cuda(CudaStreamHandle stream, const float* x, size_t count, T* out) {
  if (count == 0) return;
  constexpr int kPack = kPackOf<float, T>;
  const bool packs = fits_packs<kPack>(count, x, out);
  (packs ? launch_round<T, kPack> : launch_round<T, 1>)(stream, x, count, out);
  check_cuda_launch("round");
}

template void embed_cuda(CudaStreamHandle, const bf16*, uint64_t, uint64_t, const int32_t*, size_t, size_t,
                         size_t, float*, DeviceAmax);
template void embed_cuda(CudaStreamHandle, const bf16*, uint64_t, uint64_t, const int32_t*, size_t, size_t,
                         size_t, bf16*, DeviceAmax);
template void gather_rows_cuda(CudaStreamHandle, const float*, size_t, const uint32_t*, size_t, float*,
                               DeviceAmax);
template void gather_rows_cuda(CudaStreamHandle, const bf16*, size_t, const uint32_t*, size_t, bf16*,
                               DeviceAmax);
template void round_cuda(CudaStreamHandle, const float*, size_t, float*);
template void round_cuda(CudaStreamHandle, const float*, size_t, bf16*);

template void add_bias_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, float*, size_t);
template void add_bias_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, bf16*, size_t);
template void add_rounded_cuda(CudaStreamHandle, const float*, size_t, size_t, float*, DeviceAmax);
template void add_rounded_cuda(CudaStreamHandle, const float*, size_t, size_t, bf16*, DeviceAmax);

}  // namespace nibblecast
