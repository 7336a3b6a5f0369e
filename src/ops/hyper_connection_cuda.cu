#include "ops/device_common.cuh"
#include "ops/hyper_connection_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kSplitThreads = 256, kBalanceThreads = 64, kSpreadThreads = 256;
// Packs of a token's streams in a thread's registers: the streams are read once.
constexpr uint32_t kHeldPacks = 8;

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// --- fn in parts

template <class T>
__global__ void __launch_bounds__(kSplitThreads) split_fn_kernel(const float* fn, size_t count, T* parts) {
  const size_t i = size_t{blockIdx.x} * kSplitThreads + threadIdx.x;
  if (i >= count) return;
  float rest = fn[i];
#pragma unroll
  for (uint32_t part = 0; part < kFnParts<T>; ++part) {
    const T rounded = from_float<T>(rest);
    parts[part * count + i] = rounded;
    rest -= to_float(rounded);  // exact
  }
}

// --- streams to a vector

template <class T>
struct MixTask {
  HyperConnectionView connection;
  const T* streams;
  size_t tokens;
  const float* products;
  const float* norm;
  T* x;
  StreamMix* mixes;  // null: pre only
  DeviceAmax seen;   // may be null

  __device__ const T* streams_of(size_t token) const {
    return streams + token * connection.streams * connection.width;
  }
  // 1 / RMS of `count` numbers.
  __device__ float factor(float squares, uint32_t count) const {
    return 1.0f / sqrtf(row_sum(squares) / static_cast<float>(count) + connection.norm_eps);
  }
};

// split_mixes() up to Sinkhorn's steps, which balance_kernel does: pre, post, and comb as it is before them.
// By the whole block; `factor` is 1 / RMS of the streams.
template <class T>
__device__ void split_products(const MixTask<T>& task, size_t token, float factor, float* pre) {
  const HyperConnectionView& c = task.connection;
  const uint32_t n = c.streams, outputs = task.mixes == nullptr ? n : (2 + n) * n;
  const uint32_t width = kFnParts<T> * outputs;
  const float* products = task.products + token * width;
  for (uint32_t i = threadIdx.x; i < outputs; i += blockDim.x) {
    float m = 0;
    for (uint32_t part = 0; part < kFnParts<T>; ++part) {
      for (uint32_t stream = 0; stream < n; ++stream)
        m += products[stream * task.tokens * width + part * outputs + i];
    }
    m *= factor;
    if (i < n) {
      pre[i] = sigmoid(m * c.scale[0] + c.base[i]) + c.eps;
    } else if (i < 2 * n) {
      task.mixes[token].post[i - n] = 2.0f * sigmoid(m * c.scale[1] + c.base[i]);
    } else {
      task.mixes[token].comb[(i - 2 * n) / n][(i - 2 * n) % n] = m * c.scale[2] + c.base[i];
    }
  }
  __syncthreads();
}

template <class T, int kPack, int kMostStreams>
using HeldStreams = Pack<T, kPack>[kHeldPacks / kMostStreams][kMostStreams];

// The packs of all streams at the columns of this thread; zeros where there are none. Returns their sum of
// squares.
template <class T, int kPack, int kMostStreams>
__device__ float load_streams(const T* streams, uint32_t n, uint32_t width,
                              HeldStreams<T, kPack, kMostStreams>& held) {
#pragma unroll
  for (uint32_t i = 0; i < kHeldPacks / kMostStreams; ++i) {
    const uint32_t at = (threadIdx.x + i * blockDim.x) * kPack;
#pragma unroll
    for (uint32_t j = 0; j < kMostStreams; ++j) {
      const bool there = at < width && j < n;
      held[i][j] = there ? load_pack<kPack>(streams + j * width + at) : Pack<T, kPack>{};
    }
  }
  float squares = 0;
#pragma unroll
  for (uint32_t i = 0; i < kHeldPacks / kMostStreams; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < kMostStreams; ++j) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) squares += held[i][j].at(e) * held[i][j].at(e);
    }
  }
  return squares;
}

// A block per token. kMostStreams: 4 or 8.
template <class T, int kMostStreams>
__global__ void __launch_bounds__(kMostThreads) mix_packs(MixTask<T> task) {
  constexpr int kPack = kPackOf<T>;
  constexpr uint32_t kColumns = kHeldPacks / kMostStreams;
  __shared__ float pre[kMaxHyperStreams];
  const size_t token = blockIdx.x;
  const uint32_t n = task.connection.streams, width = task.connection.width;
  HeldStreams<T, kPack, kMostStreams> held;
  float squares = load_streams<T, kPack, kMostStreams>(task.streams_of(token), n, width, held);
  split_products(task, token, task.factor(squares, n * width), pre);
  float share[kMostStreams], mixed[kColumns][kPack];
#pragma unroll
  for (uint32_t j = 0; j < kMostStreams; ++j) share[j] = j < n ? pre[j] : 0.0f;
  squares = 0;
#pragma unroll
  for (uint32_t i = 0; i < kColumns; ++i) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      mixed[i][e] = share[0] * held[i][0].at(e);
#pragma unroll
      for (uint32_t j = 1; j < kMostStreams; ++j) {
        mixed[i][e] += share[j] * held[i][j].at(e);
      }
      squares += mixed[i][e] * mixed[i][e];
    }
  }
  const float factor = task.factor(squares, width);
  uint32_t largest = 0;
#pragma unroll
  for (uint32_t i = 0; i < kColumns; ++i) {
    const uint32_t at = (threadIdx.x + i * blockDim.x) * kPack;
    if (at >= width) break;
    const Pack<float, kPack> weights = load_pack<kPack>(task.norm + at);
#pragma unroll
    for (int e = 0; e < kPack; ++e) mixed[i][e] = mixed[i][e] * factor * weights.at(e);
    const auto x = round_to_pack<T>(mixed[i]);
    store_pack(task.x + token * width + at, x);
    largest = max(largest, largest_magnitude(x));
  }
  raise(task.seen, largest);
}

// For streams of any width at any address; reads them three times.
template <class T>
__global__ void __launch_bounds__(kMostThreads) mix_elements(MixTask<T> task) {
  __shared__ float pre[kMaxHyperStreams];
  const size_t token = blockIdx.x;
  const uint32_t n = task.connection.streams, width = task.connection.width;
  const T* streams = task.streams_of(token);
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < n * width; i += blockDim.x) {
    squares += to_float(streams[i]) * to_float(streams[i]);
  }
  split_products(task, token, task.factor(squares, n * width), pre);
  const auto mixed = [&](uint32_t i) {
    float sum = pre[0] * to_float(streams[i]);
    for (uint32_t j = 1; j < n; ++j) sum += pre[j] * to_float(streams[j * width + i]);
    return sum;
  };
  squares = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) squares += mixed(i) * mixed(i);
  const float factor = task.factor(squares, width);
  uint32_t largest = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
    const T x = from_float<T>(mixed(i) * factor * task.norm[i]);
    task.x[token * width + i] = x;
    largest = max(largest, magnitude(to_float(x)));
  }
  raise(task.seen, largest);
}

template <class T, int kMostStreams>
bool fits_held_packs(const MixTask<T>& task) {
  const uint32_t width = task.connection.width;
  return task.connection.streams <= kMostStreams &&
         width <= kMostThreads * kPackOf<T> * (kHeldPacks / kMostStreams) &&
         fits_packs<kPackOf<T>>(width, task.streams, task.norm, task.x);
}

template <class T, int kMostStreams>
void launch_mix_packs(CudaStreamHandle stream, const MixTask<T>& task, size_t tokens) {
  const size_t threads =
      ceil_div(size_t{task.connection.width}, size_t{kPackOf<T>} * (kHeldPacks / kMostStreams));
  mix_packs<T, kMostStreams>
      <<<static_cast<uint32_t>(tokens), even_threads(threads, kMostThreads), 0, stream>>>(task);
}

template <class T>
void launch_mix(CudaStreamHandle stream, const MixTask<T>& task, size_t tokens) {
  if (fits_held_packs<T, 4>(task)) {
    launch_mix_packs<T, 4>(stream, task, tokens);
  } else if (fits_held_packs<T, 8>(task)) {
    launch_mix_packs<T, 8>(stream, task, tokens);
  } else {
    const uint32_t threads = even_threads(task.connection.width, kMostThreads);
    mix_elements<<<static_cast<uint32_t>(tokens), threads, 0, stream>>>(task);
  }
}

// --- Sinkhorn's steps

template <int kMost>
using Comb = float[kMost][kMost];

template <int kMost>
__device__ void normalize_rows(Comb<kMost>& comb, uint32_t n, float eps) {
#pragma unroll
  for (uint32_t row = 0; row < kMost; ++row) {
    float sum = 0;
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col) sum += col < n ? comb[row][col] : 0.0f;
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col) comb[row][col] /= sum + eps;
  }
}

template <int kMost>
__device__ void normalize_columns(Comb<kMost>& comb, uint32_t n, float eps) {
#pragma unroll
  for (uint32_t col = 0; col < kMost; ++col) {
    float sum = 0;
#pragma unroll
    for (uint32_t row = 0; row < kMost; ++row) sum += row < n ? comb[row][col] : 0.0f;
#pragma unroll
    for (uint32_t row = 0; row < kMost; ++row) comb[row][col] /= sum + eps;
  }
}

template <int kMost>
__device__ void softmax_rows(Comb<kMost>& comb, uint32_t n, float eps) {
#pragma unroll
  for (uint32_t row = 0; row < kMost; ++row) {
    float largest = comb[row][0];
#pragma unroll
    for (uint32_t col = 1; col < kMost; ++col) largest = col < n ? fmaxf(largest, comb[row][col]) : largest;
    float sum = 0;
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col) {
      comb[row][col] = expf(comb[row][col] - largest);
      sum += col < n ? comb[row][col] : 0.0f;
    }
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col) comb[row][col] = comb[row][col] / sum + eps;
  }
}

// A thread per token, its matrix in registers: the steps are one long chain, which only many tokens at once
// hide. In a kernel of its own, so that no block waits for one thread.
template <int kMost>
__global__ void __launch_bounds__(kBalanceThreads)
    balance_kernel(HyperConnectionView connection, StreamMix* mixes, size_t tokens) {
  const size_t token = size_t{blockIdx.x} * kBalanceThreads + threadIdx.x;
  if (token >= tokens) return;
  const uint32_t n = connection.streams;
  const float eps = connection.eps;
  StreamMix& mix = mixes[token];
  Comb<kMost> comb;
#pragma unroll
  for (uint32_t row = 0; row < kMost; ++row) {
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col)
      comb[row][col] = row < n && col < n ? mix.comb[row][col] : 0.0f;
  }
  softmax_rows<kMost>(comb, n, eps);
  normalize_columns<kMost>(comb, n, eps);
  for (uint32_t step = 1; step < connection.sinkhorn_iterations; ++step) {
    normalize_rows<kMost>(comb, n, eps);
    normalize_columns<kMost>(comb, n, eps);
  }
#pragma unroll
  for (uint32_t row = 0; row < kMost; ++row) {
#pragma unroll
    for (uint32_t col = 0; col < kMost; ++col) {
      if (row < n && col < n) mix.comb[row][col] = comb[row][col];
    }
  }
}

// --- a vector to the streams

template <class T>
struct SpreadTask {
  const StreamMix* mixes;
  const T* y;
  size_t tokens;
  uint32_t streams_count, width;
  T* streams;
  DeviceAmax seen;
};

// A block per token. kMostStreams: 4 or 8.
template <class T, int kPack, int kMostStreams>
__global__ void __launch_bounds__(kSpreadThreads) spread_kernel(SpreadTask<T> task) {
  const size_t token = blockIdx.x;
  const uint32_t n = task.streams_count, width = task.width;
  const StreamMix& mix = task.mixes[token];
  const T* y = task.y + token * width;
  T* streams = task.streams + token * n * width;
  float post[kMostStreams], comb[kMostStreams][kMostStreams];
#pragma unroll
  for (uint32_t k = 0; k < kMostStreams; ++k) {
    post[k] = k < n ? mix.post[k] : 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < kMostStreams; ++j) comb[j][k] = j < n && k < n ? mix.comb[j][k] : 0.0f;
  }
  uint32_t largest = 0;
  for (uint32_t at = threadIdx.x * kPack; at < width; at += blockDim.x * kPack) {
    const Pack<T, kPack> added = load_pack<kPack>(y + at);
    Pack<T, kPack> before[kMostStreams];
#pragma unroll
    for (uint32_t j = 0; j < kMostStreams; ++j) {
      before[j] = j < n ? load_pack<kPack>(streams + j * width + at) : Pack<T, kPack>{};
    }
#pragma unroll
    for (uint32_t k = 0; k < kMostStreams; ++k) {
      if (k >= n) break;
      float sums[kPack];
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        sums[e] = post[k] * added.at(e);
#pragma unroll
        for (uint32_t j = 0; j < kMostStreams; ++j) sums[e] += comb[j][k] * before[j].at(e);
      }
      const auto after = round_to_pack<T>(sums);
      store_pack(streams + k * width + at, after);
      largest = max(largest, largest_magnitude(after));
    }
  }
  raise(task.seen, largest);
}

template <class T, int kPack>
void launch_spread(CudaStreamHandle stream, const SpreadTask<T>& task) {
  const uint32_t blocks = static_cast<uint32_t>(task.tokens);
  const uint32_t threads = even_threads(task.width / kPack, kSpreadThreads);
  if (task.streams_count <= 4) {
    spread_kernel<T, kPack, 4><<<blocks, threads, 0, stream>>>(task);
  } else {
    spread_kernel<T, kPack, 8><<<blocks, threads, 0, stream>>>(task);
  }
}

}  // namespace

template <class T>
void split_fn_cuda(CudaStreamHandle stream, const float* fn, size_t count, T* parts) {
  if (count == 0) return;
  const size_t blocks = ceil_div(count, size_t{kSplitThreads});
  split_fn_kernel<<<static_cast<uint32_t>(blocks), kSplitThreads, 0, stream>>>(fn, count, parts);
  check_cuda_launch("split_fn");
}

template <class T>
void mix_streams_cuda(CudaStreamHandle stream, const HyperConnectionView& connection, const T* streams,
                      size_t tokens, const float* products, const float* norm, T* x, StreamMix* mixes,
                      DeviceAmax seen) {
  if (tokens == 0) return;
  launch_mix<T>(stream, {connection, streams, tokens, products, norm, x, mixes, seen}, tokens);
  check_cuda_launch("mix_streams");
  const auto balance = connection.streams <= 4 ? balance_kernel<4> : balance_kernel<8>;
  const size_t blocks = ceil_div(tokens, size_t{kBalanceThreads});
  balance<<<static_cast<uint32_t>(blocks), kBalanceThreads, 0, stream>>>(connection, mixes, tokens);
  check_cuda_launch("mix_streams: balance");
}

template <class T>
void spread_to_streams_cuda(CudaStreamHandle stream, const StreamMix* mixes, const T* y, size_t tokens,
                            size_t streams_count, size_t width, T* streams, DeviceAmax seen) {
  if (tokens == 0 || width == 0) return;
  const bool packs = fits_packs<kPackOf<T>>(width, y, streams);
  (packs ? launch_spread<T, kPackOf<T>>
         : launch_spread<T, 1>)(stream, {mixes, y, tokens, static_cast<uint32_t>(streams_count),
                                         static_cast<uint32_t>(width), streams, seen});
  check_cuda_launch("spread_to_streams");
}

template <class T>
void merge_streams_cuda(CudaStreamHandle stream, const HyperConnectionView& head, const T* streams,
                        size_t tokens, const float* products, const float* norm, T* x) {
  if (tokens == 0) return;
  launch_mix<T>(stream, {head, streams, tokens, products, norm, x, nullptr, nullptr}, tokens);
  check_cuda_launch("merge_streams");
}

template void split_fn_cuda(CudaStreamHandle, const float*, size_t, float*);
template void split_fn_cuda(CudaStreamHandle, const float*, size_t, bf16*);
template void mix_streams_cuda(CudaStreamHandle, const HyperConnectionView&, const float*, size_t,
                               const float*, const float*, float*, StreamMix*, DeviceAmax);
template void mix_streams_cuda(CudaStreamHandle, const HyperConnectionView&, const bf16*, size_t,
                               const float*, const float*, bf16*, StreamMix*, DeviceAmax);
template void spread_to_streams_cuda(CudaStreamHandle, const StreamMix*, const float*, size_t, size_t, size_t,
                                     float*, DeviceAmax);
template void spread_to_streams_cuda(CudaStreamHandle, const StreamMix*, const bf16*, size_t, size_t, size_t,
                                     bf16*, DeviceAmax);
template void merge_streams_cuda(CudaStreamHandle, const HyperConnectionView&, const float*, size_t,
                                 const float*, const float*, float*);
template void merge_streams_cuda(CudaStreamHandle, const HyperConnectionView&, const bf16*, size_t,
                                 const float*, const float*, bf16*);

}  // namespace nibblecast
