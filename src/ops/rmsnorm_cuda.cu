#include "ops/device_common.cuh"
#include "ops/heads_cuda.h"
#include "ops/rmsnorm_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kHeldPacks = 4;  // of a row, in a thread's registers: the row is read once

template <class From, class T>
struct NormRows {
  const From* x;
  size_t rows;
  uint32_t width;
  const float* weight;  // may be null
  float eps;
  RopeView rope;  // no pairs: nothing turns
  const uint32_t* positions;
  T* y;
  DeviceAmax seen;
  NormWeight use = NormWeight::kTimes;
  // Of heads: rows with one position, which turn the channels that the view says instead of the last, and may
  // have no norm.
  uint32_t heads = 0;
  bool normed = true;

  __device__ uint32_t turned_from() const {
    return heads == 0 || rope.place == RopePlace::kLast ? width - rope.dims() : 0;
  }
  __device__ const Rope::Turn* turns(size_t row) const {
    return rope.pairs == 0 ? nullptr
                           : rope.turns + size_t{positions[heads == 0 ? row : row / heads]} * rope.pairs;
  }
  __device__ float factor(float squares) const {
    return 1.0f / sqrtf(row_sum(squares) / static_cast<float>(width) + eps);
  }
};

__device__ void turn_pair(const Rope::Turn& turn, float& a, float& b) {
  const float before = a;
  a = before * turn.cos - b * turn.sin;
  b = before * turn.sin + b * turn.cos;
}

template <int kPack, class From, class T>
__device__ void scale(const Pack<From, kPack>& x, float factor, const NormRows<From, T>& norm, uint32_t at,
                      float (&values)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) values[i] = x.at(i) * factor;
  if (norm.weight == nullptr) return;
  const Pack<float, kPack> weights = load_pack<kPack>(norm.weight + at);
  if (norm.use == NormWeight::kRoundedTimes) {
    const auto rounded = round_to_pack<T>(values);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = rounded.at(i) * weights.at(i);
  } else if (norm.use == NormWeight::kPlusOne) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] *= 1.0f + weights.at(i);
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] *= weights.at(i);
  }
}

template <class From, class T>
__global__ void __launch_bounds__(kMostThreads) norm_packs(NormRows<From, T> norm) {
  constexpr int kPack = kPackOf<From, T>;
  const size_t row = row_of_thread();
  if (row >= norm.rows) return;
  const From* x = norm.x + row * norm.width;
  Pack<From, kPack> held[kHeldPacks];
#pragma unroll
  for (uint32_t i = 0; i < kHeldPacks; ++i) {
    const uint32_t at = (threadIdx.x + i * blockDim.x) * kPack;
    held[i] = at < norm.width ? load_pack<kPack>(x + at) : Pack<From, kPack>{};
  }
  float squares = 0;
#pragma unroll
  for (uint32_t i = 0; i < kHeldPacks; ++i) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) squares += held[i].at(e) * held[i].at(e);
  }
  const float factor = norm.factor(squares);
  const Rope::Turn* turns = norm.turns(row);
  uint32_t largest = 0;
#pragma unroll
  for (uint32_t i = 0; i < kHeldPacks; ++i) {
    const uint32_t at = (threadIdx.x + i * blockDim.x) * kPack;
    if (at >= norm.width) break;
    float values[kPack];
    scale(held[i], factor, norm, at, values);
    if (at >= norm.turned_from()) {
      const Rope::Turn* own = turns + (at - norm.turned_from()) / 2;
#pragma unroll
      for (int e = 0; e < kPack; e += 2) turn_pair(own[e / 2], values[e], values[e + 1]);
    }
    const auto y = round_to_pack<T>(values);
    store_pack(norm.y + row * norm.width + at, y);
    largest = max(largest, largest_magnitude(y));
  }
  raise(norm.seen, largest);
}

// Channel i of a row, with its weight; rounded where the use of the weight says so.
template <class From, class T>
__device__ float scaled(const NormRows<From, T>& norm, const From* x, uint32_t i, float factor) {
  const float value = to_float(x[i]) * factor;
  if (norm.weight == nullptr) return value;
  if (norm.use == NormWeight::kTimes) return value * norm.weight[i];
  if (norm.use == NormWeight::kPlusOne) return value * (1.0f + norm.weight[i]);
  return to_float(from_float<T>(to_float(from_float<T>(value)) * norm.weight[i]));
}

// For rows of any width at any address; reads them twice.
template <class From, class T>
__global__ void __launch_bounds__(kMostThreads) norm_elements(NormRows<From, T> norm) {
  const size_t row = row_of_thread();
  if (row >= norm.rows) return;
  const From* x = norm.x + row * norm.width;
  T* y = norm.y + row * norm.width;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < norm.width; i += blockDim.x) squares += to_float(x[i]) * to_float(x[i]);
  const float factor = norm.normed ? norm.factor(squares) : 1.0f;
  const Rope::Turn* turns = norm.turns(row);
  uint32_t largest = 0;
  const auto put = [&](uint32_t i, float value) {
    y[i] = from_float<T>(value);
    largest = max(largest, magnitude(to_float(y[i])));
  };
  const uint32_t begin = norm.turned_from(), dims = norm.rope.dims(), pairs = norm.rope.pairs;
  for (uint32_t i = threadIdx.x; i < norm.width - dims; i += blockDim.x) {
    const uint32_t channel = i < begin ? i : i + dims;
    put(channel, scaled(norm, x, channel, factor));
  }
  const bool halves = norm.rope.pairing == RopePairing::kHalves;
  for (uint32_t pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
    const uint32_t first = begin + (halves ? pair : 2 * pair), second = first + (halves ? pairs : 1);
    float a = scaled(norm, x, first, factor), b = scaled(norm, x, second, factor);
    turn_pair(turns[pair], a, b);
    put(first, a);
    put(second, b);
  }
  raise(norm.seen, largest);
}

template <class From, class T>
void launch(CudaStreamHandle stream, const NormRows<From, T>& norm) {
  constexpr int kPack = kPackOf<From, T>;
  if (norm.rows == 0 || norm.width == 0) return;
  const size_t threads = ceil_div(size_t{norm.width}, size_t{kPack} * kHeldPacks);
  if (threads <= kMostThreads && norm.rope.dims() % kPack == 0 &&
      fits_packs<kPack>(norm.width, norm.x, norm.weight, norm.y)) {
    const RowGrid grid(norm.rows, even_threads(threads, kMostThreads));
    norm_packs<<<grid.blocks, grid.block, 0, stream>>>(norm);
  } else {
    const RowGrid grid(norm.rows, even_threads(norm.width, kMostThreads));
    norm_elements<<<grid.blocks, grid.block, 0, stream>>>(norm);
  }
}

}  // namespace

template <class From, class T>
void rmsnorm_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width, const float* weight,
                  float eps, T* y, DeviceAmax seen) {
  launch<From, T>(stream, {x, rows, static_cast<uint32_t>(width), weight, eps, {}, nullptr, y, seen});
  check_cuda_launch("rmsnorm");
}

template <class From, class T>
void rmsnorm_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width, const float* weight,
                  NormWeight use, float eps, T* y, DeviceAmax seen) {
  launch<From, T>(stream, {x, rows, static_cast<uint32_t>(width), weight, eps, {}, nullptr, y, seen, use});
  check_cuda_launch("rmsnorm");
}

template <class From, class T>
void norm_and_turn_heads_cuda(CudaStreamHandle stream, const From* x, size_t tokens, size_t heads,
                              size_t width, const HeadNorm* norm, const RopeView& rope,
                              const uint32_t* positions, T* y) {
  if (tokens == 0 || heads == 0 || width == 0) return;
  NormRows<From, T> rows{.x = x,
                         .rows = tokens * heads,
                         .width = static_cast<uint32_t>(width),
                         .weight = nullptr,
                         .eps = 0,
                         .rope = rope,
                         .positions = positions,
                         .y = y,
                         .seen = nullptr};
  rows.heads = static_cast<uint32_t>(heads);
  rows.normed = norm != nullptr;
  if (norm != nullptr) rows.weight = norm->weight, rows.use = norm->use, rows.eps = norm->eps;
  const RowGrid grid(rows.rows, kWarp);
  norm_elements<<<grid.blocks, grid.block, 0, stream>>>(rows);
  check_cuda_launch("norm_and_turn_heads");
}

template <class From, class T>
void norm_and_turn_cuda(CudaStreamHandle stream, const From* x, size_t rows, size_t width,
                        const float* weight, float eps, const RopeView& rope, const uint32_t* positions,
                        T* y) {
  launch<From, T>(stream, {x, rows, static_cast<uint32_t>(width), weight, eps, rope, positions, y, nullptr});
  check_cuda_launch("norm_and_turn");
}

template void rmsnorm_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, float, float*,
                           DeviceAmax);
template void rmsnorm_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, float, bf16*,
                           DeviceAmax);
template void rmsnorm_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, float, float*,
                           DeviceAmax);
template void rmsnorm_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, float, bf16*,
                           DeviceAmax);
template void norm_and_turn_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, float,
                                 const RopeView&, const uint32_t*, float*);
template void norm_and_turn_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, float,
                                 const RopeView&, const uint32_t*, bf16*);
template void norm_and_turn_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, float,
                                 const RopeView&, const uint32_t*, float*);
template void norm_and_turn_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, float,
                                 const RopeView&, const uint32_t*, bf16*);

template void rmsnorm_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, NormWeight, float,
                           float*, DeviceAmax);
template void norm_and_turn_heads_cuda(CudaStreamHandle, const float*, size_t, size_t, size_t,
                                       const HeadNorm*, const RopeView&, const uint32_t*, float*);
template void rmsnorm_cuda(CudaStreamHandle, const float*, size_t, size_t, const float*, NormWeight, float,
                           bf16*, DeviceAmax);
template void norm_and_turn_heads_cuda(CudaStreamHandle, const float*, size_t, size_t, size_t,
                                       const HeadNorm*, const RopeView&, const uint32_t*, bf16*);
template void rmsnorm_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, NormWeight, float,
                           float*, DeviceAmax);
template void norm_and_turn_heads_cuda(CudaStreamHandle, const bf16*, size_t, size_t, size_t, const HeadNorm*,
                                       const RopeView&, const uint32_t*, float*);
template void rmsnorm_cuda(CudaStreamHandle, const bf16*, size_t, size_t, const float*, NormWeight, float,
                           bf16*, DeviceAmax);
template void norm_and_turn_heads_cuda(CudaStreamHandle, const bf16*, size_t, size_t, size_t, const HeadNorm*,
                                       const RopeView&, const uint32_t*, bf16*);

}  // namespace nibblecast
