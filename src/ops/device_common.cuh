// ops/device_common.cuh - what kernels over rows share: packs of 16 bytes, sums and magnitudes of a row.
//
// A row belongs to a whole block or, if the block is one warp wide (blockDim.x == 32), to a warp of it: rows
// then lie along y. Sums are made in one order, which only blockDim.x decides.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/integers.h"
#include "ops/amax_cuda.h"

namespace nibblecast {

inline constexpr uint32_t kWarp = 32, kAllLanes = 0xffffffffu;
inline constexpr uint32_t kMostThreads = 1024;  // of a block

// Elements that are loaded and stored at once.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
  __device__ float at(int i) const { return to_float(values[i]); }
};
// Two in a register: on their own, the compiler would give each one.
template <int kCount>
requires(kCount % 2 == 0) struct alignas(2 * kCount < 16 ? 2 * kCount : 16) Pack<bf16, kCount> {
  uint32_t pairs[kCount / 2];
  __device__ float at(int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xffff0000u);
  }
};

// As many elements as fill 16 bytes of the wider type.
template <class A, class B = A>
inline constexpr int kPackOf = 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

// Whether packs may be used: on rows of `width` that follow each other at all of `pointers`. The order of
// sums depends on it, so a run's buffers must be aligned alike in every call.
template <int kCount, class... T>
bool fits_packs(size_t width, const T*... pointers) {
  return width % kCount == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

template <int kCount, class T>
__device__ Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <int kCount, class T>
__device__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

// Each value as from_float<T>() gives it, but that BF16's NaN is always 0x7fff.
template <class T, int kCount>
__device__ Pack<T, kCount> round_to_pack(const float (&values)[kCount]) {
  Pack<T, kCount> pack;
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pack.pairs[i / 2]) : "f"(values[i + 1]), "f"(values[i]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.values[i] = from_float<T>(values[i]);
  }
  return pack;
}

// Threads, whole warps, of which each takes equally many of `items` one after the other; at most `most`.
inline uint32_t even_threads(size_t items, uint32_t most) {
  if (items == 0) return kWarp;
  const size_t rounds = ceil_div(items, size_t{most});
  return static_cast<uint32_t>(ceil_div(ceil_div(items, rounds), size_t{kWarp}) * kWarp);
}

// A block per row, or a warp per row where `threads` is one: eight of them in a block.
struct RowGrid {
  RowGrid(size_t rows, uint32_t threads) : block(threads, threads == kWarp ? 8 : 1) {
    blocks = static_cast<uint32_t>(ceil_div(rows, size_t{block.y}));
  }
  uint32_t blocks;
  dim3 block;
};
// May be past the last one.
inline __device__ size_t row_of_thread() { return size_t{blockIdx.x} * blockDim.y + threadIdx.y; }

// The bits of |x|, ordered as the magnitudes are, NaN last.
inline __device__ uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

template <class T, int kCount>
__device__ uint32_t largest_magnitude(const Pack<T, kCount>& pack) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) largest = max(largest, magnitude(pack.at(i)));
  return largest;
}

// Every lane gets the same bits: both of a pair add the same two numbers.
inline __device__ float warp_sum(float value) {
#pragma unroll
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Of the row's threads, to all of them.
inline __device__ float row_sum(float value) {
  __shared__ float sums[kWarp];
  value = warp_sum(value);
  if (blockDim.x == kWarp) return value;
  const uint32_t warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  __syncthreads();  // the last call's sums have been read
  if (lane == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? sums[lane] : 0.0f);
}

// The row's largest magnitude into `seen`, which may be null. Reading it first spares nearly all atomics on
// one address: a maximum is seldom raised.
inline __device__ void raise(DeviceAmax seen, uint32_t largest) {
  if (seen == nullptr) return;
  largest = __reduce_max_sync(kAllLanes, largest);
  if (blockDim.x != kWarp) {
    __shared__ uint32_t all[kWarp];
    const uint32_t warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
    __syncthreads();
    if (lane == 0) all[threadIdx.x / kWarp] = largest;
    __syncthreads();
    largest = __reduce_max_sync(kAllLanes, lane < warps ? all[lane] : 0u);
  }
  if (threadIdx.x == 0 && largest > __ldcg(seen)) atomicMax(seen, largest);
}

}  // namespace nibblecast
