// A block of threads takes some rows of one kv head - queries times the heads that share it - and meets tile
// by tile the keys that they see. BF16 heads of up to 256 channels run on tensor cores, where logits and p
// never leave the registers; all others in FP32.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "ops/device_common.cuh"
#include "ops/gqa_cuda.h"
#include "ops/mma_cuda.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 128;
constexpr float kHidden = -INFINITY;

// Some rows of a block of queries: row i of the block is query i / group, head i % group of the kv head.
template <class T>
class RowTile {
 public:
  // `tile`: which of the block's tiles of `rows` rows.
  __device__ RowTile(const GqaCuda<T>& gqa, const QueryBlock& block, uint32_t tile, uint32_t rows,
                     uint32_t kv_head, size_t chunk_begin)
      : gqa_(gqa),
        group_(gqa.group()),
        row_(gqa.rows[block.row]),
        block_(block),
        first_(tile * rows),
        kv_head_(kv_head),
        first_token_(size_t{row_.begin} + block.first - chunk_begin),
        last_(min(first_ + rows, block.count * group_) - 1) {}

  __device__ bool exists(uint32_t row) const { return query(row) < block_.count; }
  __device__ uint32_t position(uint32_t row) const { return block_.first + query(row); }
  __device__ uint32_t head(uint32_t row) const { return kv_head_ * group_ + (first_ + row) % group_; }
  // Of q and of the output: times the head's width it is where the row begins.
  __device__ size_t index(uint32_t row) const { return (first_token_ + query(row)) * gqa_.heads + head(row); }

  // Keys that the row sees: [first_key, end_key); none where it does not exist.
  __device__ uint32_t first_key(uint32_t row) const {
    const uint32_t keys = position(row) + 1;
    return gqa_.window == 0 || keys <= gqa_.window ? 0 : keys - gqa_.window;
  }
  __device__ uint32_t end_key(uint32_t row) const { return exists(row) ? position(row) + 1 : 0; }

  // Tiles of `keys` keys that some row sees.
  __device__ uint32_t first_tile(uint32_t keys) const { return first_key(0) / keys; }
  __device__ uint32_t end_tile(uint32_t keys) const { return position(last_ - first_) / keys + 1; }

  __device__ uint32_t keys_in_row() const { return row_.length; }
  // The sequence's key or value `key` of this kv head.
  __device__ const T* key(uint32_t key) const {
    return gqa_.keys + ((size_t{row_.begin} + key) * gqa_.kv_heads + kv_head_) * gqa_.key_width;
  }
  __device__ const T* value(uint32_t key) const {
    return gqa_.values + ((size_t{row_.begin} + key) * gqa_.kv_heads + kv_head_) * gqa_.value_width;
  }

 private:
  __device__ uint32_t query(uint32_t row) const { return (first_ + row) / group_; }

  const GqaCuda<T>& gqa_;
  const uint32_t group_;
  const RowOfGroup row_;
  const QueryBlock block_;
  const uint32_t first_, kv_head_;
  const size_t first_token_;
  const uint32_t last_;  // row of the block
};

// ---- BF16 on tensor cores. A warp has 16 rows; of a tile's 16 x 8 products each of its lanes holds two
// neighbours of row lane / 4 and two of the row eight below (mma_cuda.cuh).

template <uint32_t most_width>
struct TensorTile {
  static constexpr uint32_t kMostWidth = most_width, kRows = 64, kKeys = most_width > 128 ? 32 : 64;
  static constexpr uint32_t kStride = most_width + 8;   // eight rows at one channel lie in different banks
  static constexpr uint32_t kVectors = most_width / 8;  // of 16 bytes, in a row
  static_assert(kRows == kThreads / kWarp * 16);
  struct Shared {
    alignas(16) bf16 q[kRows * kStride];  // at the end: the output
    alignas(16) bf16 keys[kKeys * kStride], values[kKeys * kStride];
  };
};

__device__ __forceinline__ uint32_t lane_id() { return threadIdx.x % kWarp; }
__device__ __forceinline__ uint32_t warp_id() { return threadIdx.x / kWarp; }
__device__ __forceinline__ uint32_t padded_width(uint32_t width) { return ceil_div(width, 32u) * 32; }

// Begins to copy `rows` rows of `width` channels; row(i) is where row i begins, null: zeros. Channels up to
// padded_width are filled up with zeros.
template <class Tile, class Row>
__device__ __forceinline__ void load_rows(uint32_t rows, uint32_t width, const bf16* any, bf16* to,
                                          const Row& row) {
  for (uint32_t i = threadIdx.x; i < rows * Tile::kVectors; i += kThreads) {
    const uint32_t channel = i % Tile::kVectors * 8;
    if (channel >= padded_width(width)) continue;
    const bf16* from = row(i / Tile::kVectors);
    const bool present = from != nullptr && channel < width;
    copy_16_async(to + i / Tile::kVectors * Tile::kStride + channel, present ? from + channel : any, present);
  }
}

__device__ __forceinline__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// A lane's two rows: their running maxima, in powers of two, and its share of their sums.
template <class Tile>
class TensorSoftmax {
 public:
  static constexpr float kLog2E = 1.44269504f;

  __device__ TensorSoftmax(const RowTile<bf16>& rows, const GqaCuda<bf16>& gqa) : unit_(gqa.scale * kLog2E) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = warp_id() * 16 + lane_id() / 4 + half * 8;
      const bool sinks = gqa.sinks != nullptr && rows.exists(row);
      largest_[half] = sinks ? gqa.sinks[rows.head(row)] * kLog2E : kHidden;
      sum_[half] = sinks && lane_id() % 4 == 0 ? 1.0f : 0.0f;
      first_key_[half] = rows.first_key(row);
      keys_[half] = rows.end_key(row) - min(rows.end_key(row), first_key_[half]);
    }
  }

  // Products with keys from `first` on become p; factors[half]: of what was summed before.
  __device__ void weigh(uint32_t first, float (&logits)[Tile::kKeys / 8][4], float (&factors)[2]) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const float before = largest_[half];
      largest_[half] = fmaxf(before, mask(first, half, logits));
      // Nothing seen yet: every logit is -infinity and weighs 0.
      const float base = largest_[half] == kHidden ? 0.0f : largest_[half];
      float sum = 0;
#pragma unroll
      for (uint32_t j = 0; j < Tile::kKeys / 8; ++j) {
#pragma unroll
        for (uint32_t e = 2 * half; e < 2 * half + 2; ++e) {
          logits[j][e] = power_of_two(logits[j][e] - base);
          sum += logits[j][e];
        }
      }
      factors[half] = power_of_two(before - base);
      sum_[half] = sum_[half] * factors[half] + sum;
    }
  }

  // 1 / sum of all lanes' shares.
  __device__ float mean_factor(uint32_t half) const {
    float sum = sum_[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    return 1.0f / sum;
  }

 private:
  // Scales the row's logits and hides what it does not see; returns the largest.
  __device__ float mask(uint32_t first, uint32_t half, float (&logits)[Tile::kKeys / 8][4]) const {
    float largest = kHidden;
#pragma unroll
    for (uint32_t j = 0; j < Tile::kKeys / 8; ++j) {
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t key = first + j * 8 + lane_id() % 4 * 2 + e;
        float& logit = logits[j][2 * half + e];
        logit = key - first_key_[half] < keys_[half] ? logit * unit_ : kHidden;
        largest = fmaxf(largest, logit);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    return fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  }

  const float unit_;
  float largest_[2], sum_[2];
  uint32_t first_key_[2], keys_[2];
};

// The warp's queries by the tile's keys.
template <class Tile>
__device__ __forceinline__ void multiply_keys(const typename Tile::Shared& shared, uint32_t width,
                                              float (&logits)[Tile::kKeys / 8][4]) {
  const bf16* q = shared.q + warp_id() * 16 * Tile::kStride;
  const bf16* keys = shared.keys + lane_id() % 8 * Tile::kStride + lane_id() / 8 * 8;
  for (uint32_t channel = 0; channel < padded_width(width); channel += 32) {
    uint32_t left[2][4];
    load_left(q + channel, Tile::kStride, lane_id(), left[0]);
    load_left(q + channel + 16, Tile::kStride, lane_id(), left[1]);
#pragma unroll
    for (uint32_t j = 0; j < Tile::kKeys / 8; ++j) {
      uint32_t right[4];  // 8 keys of 32 channels
      load_matrices(keys + j * 8 * Tile::kStride + channel, right);
      multiply_add(left[0], right[0], right[1], logits[j]);
      multiply_add(left[1], right[2], right[3], logits[j]);
    }
  }
}

// sums = sums * factors + p · values, for the warp's rows.
template <class Tile>
__device__ __forceinline__ void add_values(const typename Tile::Shared& shared, uint32_t width,
                                           const float (&p)[Tile::kKeys / 8][4], const float (&factors)[2],
                                           float (&sums)[Tile::kMostWidth / 8][4]) {
#pragma unroll
  for (uint32_t j = 0; j < Tile::kMostWidth / 8; ++j) {
    sums[j][0] *= factors[0], sums[j][1] *= factors[0];
    sums[j][2] *= factors[1], sums[j][3] *= factors[1];
  }
  const bf16* values = shared.values + lane_id() % 16 * Tile::kStride + lane_id() / 16 * 8;
#pragma unroll
  for (uint32_t key = 0; key < Tile::kKeys; key += 16) {
    const auto& low = p[key / 8];
    const auto& high = p[key / 8 + 1];
    const uint32_t left[4] = {round_pair(low[0], low[1]), round_pair(low[2], low[3]),
                              round_pair(high[0], high[1]), round_pair(high[2], high[3])};
#pragma unroll
    for (uint32_t j = 0; j < Tile::kMostWidth / 8; j += 2) {
      if (j * 8 >= width) continue;
      uint32_t right[4];  // 16 keys of 16 channels
      load_matrices_transposed(values + key * Tile::kStride + j * 8, right);
      multiply_add(left, right[0], right[1], sums[j]);
      multiply_add(left, right[2], right[3], sums[j + 1]);
    }
  }
}

// The warp's rows: means, rounded, through shared memory to where they belong.
template <class Tile>
__device__ __forceinline__ void store_means(const RowTile<bf16>& rows, uint32_t width,
                                            const TensorSoftmax<Tile>& softmax,
                                            const float (&sums)[Tile::kMostWidth / 8][4], bf16* shared,
                                            bf16* out, DeviceAmax seen) {
  const float low = softmax.mean_factor(0), high = softmax.mean_factor(1);
  const uint32_t first = warp_id() * 16;
  bf16* to = shared + (first + lane_id() / 4) * Tile::kStride + lane_id() % 4 * 2;
  __syncwarp();  // nobody reads the warp's queries any more
#pragma unroll
  for (uint32_t j = 0; j < Tile::kMostWidth / 8; ++j) {
    store_pair(to + j * 8, sums[j][0] * low, sums[j][1] * low);
    store_pair(to + 8 * Tile::kStride + j * 8, sums[j][2] * high, sums[j][3] * high);
  }
  __syncwarp();
  uint32_t largest = 0;
  for (uint32_t i = lane_id(); i < 16 * Tile::kVectors; i += kWarp) {
    const uint32_t row = first + i / Tile::kVectors, channel = i % Tile::kVectors * 8;
    if (channel >= width || !rows.exists(row)) continue;
    const auto means = load_pack<8>(shared + row * Tile::kStride + channel);
    largest = max(largest, largest_magnitude(means));
    store_pack(out + rows.index(row) * width + channel, means);
  }
  raise(seen, largest);
}

// The values of a tile arrive while its keys are multiplied, the next keys while its values are.
template <class Tile>
__global__ void __launch_bounds__(kThreads)
    tensor_kernel(const __grid_constant__ GqaCuda<bf16> gqa, const QueryBlock* blocks,
                  uint32_t tiles_of_block, size_t chunk_begin, const bf16* q, bf16* out, DeviceAmax seen) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<typename Tile::Shared*>(memory);
  const QueryBlock block = blocks[blockIdx.x / tiles_of_block];
  const RowTile<bf16> rows(gqa, block, blockIdx.x % tiles_of_block, Tile::kRows, blockIdx.y, chunk_begin);
  if (!rows.exists(0)) return;
  const auto load_keys = [&](uint32_t tile) {
    load_rows<Tile>(Tile::kKeys, gqa.key_width, q, shared.keys, [&](uint32_t i) {
      const uint32_t key = tile * Tile::kKeys + i;
      return key < rows.keys_in_row() ? rows.key(key) : nullptr;
    });
  };
  const auto load_values = [&](uint32_t tile) {
    load_rows<Tile>(Tile::kKeys, gqa.value_width, q, shared.values, [&](uint32_t i) {
      const uint32_t key = tile * Tile::kKeys + i;
      return key < rows.keys_in_row() ? rows.value(key) : nullptr;
    });
  };
  load_rows<Tile>(Tile::kRows, gqa.key_width, q, shared.q, [&](uint32_t row) {
    return rows.exists(row) ? q + rows.index(row) * gqa.key_width : nullptr;
  });
  const uint32_t end = rows.end_tile(Tile::kKeys);
  uint32_t tile = rows.first_tile(Tile::kKeys);
  load_keys(tile);
  TensorSoftmax<Tile> softmax(rows, gqa);
  float sums[Tile::kMostWidth / 8][4] = {};
  for (; tile < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // queries and keys are there, and nobody reads the values before
    load_values(tile);
    float p[Tile::kKeys / 8][4] = {}, factors[2];
    multiply_keys<Tile>(shared, gqa.key_width, p);
    softmax.weigh(tile * Tile::kKeys, p, factors);
    wait_for_copies();
    __syncthreads();  // values are there, and nobody reads these keys any more
    if (tile + 1 < end) load_keys(tile + 1);
    add_values<Tile>(shared, gqa.value_width, p, factors, sums);
  }
  store_means<Tile>(rows, gqa.value_width, softmax, sums, shared.q, out, seen);
}

// ---- FP32. Every thread has 16 rows of its own four channels.

template <class Number, uint32_t most_width>
struct PlainTile {
  using T = Number;
  static constexpr uint32_t kMostWidth = most_width, kKeys = 16;
  static constexpr uint32_t kVectors = most_width / 4;           // channels, by four
  static constexpr uint32_t kRows = 16 * (kThreads / kVectors);  // 64, 32, 16 rows for 128, 256, 512 channels
  static constexpr uint32_t kThreadsOfRow = kThreads / kRows;    // in the softmax
  static constexpr uint32_t kStride = most_width + 4, kLogitStride = kKeys + 4;
  static_assert(kThreads % kVectors == 0 && kKeys % kThreadsOfRow == 0 && kThreads == 8 * kKeys);
  struct Shared {
    alignas(16) float q[kRows * kStride], keys[kKeys * kStride], values[kKeys * kStride];
    alignas(16) float p[kRows * kLogitStride];  // logits first
    float factor[kRows];                        // of what was summed so far; at the end: of the sum
  };
};

template <class Tile, class Row>
__device__ __forceinline__ void load_wide_rows(uint32_t rows, uint32_t width, float* to, const Row& row) {
  for (uint32_t i = threadIdx.x; i < rows * Tile::kMostWidth; i += kThreads) {
    const uint32_t channel = i % Tile::kMostWidth;
    const auto* from = row(i / Tile::kMostWidth);
    const bool present = from != nullptr && channel < width;
    to[i / Tile::kMostWidth * Tile::kStride + channel] = present ? to_float(from[channel]) : 0.0f;
  }
}

__device__ __forceinline__ float4 read_vector(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// A thread has one key and every eighth row.
template <class Tile>
__device__ __forceinline__ void multiply_wide_keys(typename Tile::Shared& shared, uint32_t width) {
  constexpr uint32_t kOwn = Tile::kRows / 8;
  const uint32_t key = threadIdx.x % Tile::kKeys, row = threadIdx.x / Tile::kKeys;
  float sums[kOwn] = {};
  for (uint32_t channel = 0; channel < width; channel += 4) {
    const float4 right = read_vector(shared.keys + key * Tile::kStride + channel);
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i) {
      const float4 left = read_vector(shared.q + (row + i * 8) * Tile::kStride + channel);
      sums[i] += left.x * right.x;
      sums[i] += left.y * right.y;
      sums[i] += left.z * right.z;
      sums[i] += left.w * right.w;
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kOwn; ++i) shared.p[(row + i * 8) * Tile::kLogitStride + key] = sums[i];
}

// One row's running maximum and sum, held by its Tile::kThreadsOfRow threads, each with its own keys.
template <class Tile>
class PlainSoftmax {
 public:
  using T = typename Tile::T;
  __device__ PlainSoftmax(const RowTile<T>& rows, const GqaCuda<T>& gqa) : scale_(gqa.scale) {
    const bool sinks = gqa.sinks != nullptr && rows.exists(row());
    largest_ = sinks ? gqa.sinks[rows.head(row())] : kHidden;
    sum_ = sinks && part() == 0 ? 1.0f : 0.0f;
    first_key_ = rows.first_key(row());
    keys_ = rows.end_key(row()) - min(rows.end_key(row()), first_key_);
  }

  __device__ void weigh(typename Tile::Shared& shared, uint32_t first) {
    float* logits = shared.p + row() * Tile::kLogitStride + part() * kOwn;
    float found = kHidden;
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i) {
      const uint32_t key = first + part() * kOwn + i;
      logits[i] = key - first_key_ < keys_ ? logits[i] * scale_ : kHidden;
      found = fmaxf(found, logits[i]);
    }
#pragma unroll
    for (uint32_t step = 1; step < Tile::kThreadsOfRow; step *= 2)
      found = fmaxf(found, __shfl_xor_sync(kAllLanes, found, step));
    const float before = largest_;
    largest_ = fmaxf(before, found);
    const float base = largest_ == kHidden ? 0.0f : largest_;  // as on tensor cores
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i) {
      const float p = expf(logits[i] - base);
      sum += p;
      logits[i] = to_float(from_float<T>(p));
    }
    const float factor = expf(before - base);
    sum_ = sum_ * factor + sum;
    if (part() == 0) shared.factor[row()] = factor;
  }

  __device__ void finish(typename Tile::Shared& shared) const {
    float sum = sum_;
#pragma unroll
    for (uint32_t step = 1; step < Tile::kThreadsOfRow; step *= 2)
      sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (part() == 0) shared.factor[row()] = 1.0f / sum;
  }

 private:
  static constexpr uint32_t kOwn = Tile::kKeys / Tile::kThreadsOfRow;
  __device__ static uint32_t row() { return threadIdx.x / Tile::kThreadsOfRow; }
  __device__ static uint32_t part() { return threadIdx.x % Tile::kThreadsOfRow; }

  const float scale_;
  float largest_, sum_;
  uint32_t first_key_, keys_;
};

__device__ __forceinline__ void add_scaled(float p, const float4& value, float (&sums)[4]) {
  sums[0] += p * value.x;
  sums[1] += p * value.y;
  sums[2] += p * value.z;
  sums[3] += p * value.w;
}

template <class Tile>
__device__ __forceinline__ void add_wide_values(const typename Tile::Shared& shared, float (&sums)[16][4]) {
  const uint32_t first = threadIdx.x / Tile::kVectors * 16, channel = threadIdx.x % Tile::kVectors * 4;
#pragma unroll
  for (uint32_t row = 0; row < 16; ++row) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) sums[row][i] *= shared.factor[first + row];
  }
  for (uint32_t key = 0; key < Tile::kKeys; key += 4) {
    float4 values[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i)
      values[i] = read_vector(shared.values + (key + i) * Tile::kStride + channel);
#pragma unroll
    for (uint32_t row = 0; row < 16; ++row) {
      const float4 p = read_vector(shared.p + (first + row) * Tile::kLogitStride + key);
      add_scaled(p.x, values[0], sums[row]);
      add_scaled(p.y, values[1], sums[row]);
      add_scaled(p.z, values[2], sums[row]);
      add_scaled(p.w, values[3], sums[row]);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void store_wide_means(const RowTile<typename Tile::T>& rows, uint32_t width,
                                                 const typename Tile::Shared& shared,
                                                 const float (&sums)[16][4], typename Tile::T* out,
                                                 DeviceAmax seen) {
  const uint32_t first = threadIdx.x / Tile::kVectors * 16, channel = threadIdx.x % Tile::kVectors * 4;
  uint32_t largest = 0;
#pragma unroll
  for (uint32_t row = 0; row < 16; ++row) {
    if (!rows.exists(first + row)) continue;
    typename Tile::T* to = out + rows.index(first + row) * width;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (channel + i >= width) continue;
      to[channel + i] = from_float<typename Tile::T>(sums[row][i] * shared.factor[first + row]);
      largest = max(largest, magnitude(to_float(to[channel + i])));
    }
  }
  raise(seen, largest);
}

template <class Tile>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(const __grid_constant__ GqaCuda<typename Tile::T> gqa, const QueryBlock* blocks,
                 uint32_t tiles_of_block, size_t chunk_begin, const typename Tile::T* q,
                 typename Tile::T* out, DeviceAmax seen) {
  using T = typename Tile::T;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<typename Tile::Shared*>(memory);
  const QueryBlock block = blocks[blockIdx.x / tiles_of_block];
  const RowTile<T> rows(gqa, block, blockIdx.x % tiles_of_block, Tile::kRows, blockIdx.y, chunk_begin);
  if (!rows.exists(0)) return;
  load_wide_rows<Tile>(Tile::kRows, gqa.key_width, shared.q, [&](uint32_t row) {
    return rows.exists(row) ? q + rows.index(row) * gqa.key_width : static_cast<const T*>(nullptr);
  });
  PlainSoftmax<Tile> softmax(rows, gqa);
  float sums[16][4] = {};
  const uint32_t end = rows.end_tile(Tile::kKeys);
  for (uint32_t tile = rows.first_tile(Tile::kKeys); tile < end; ++tile) {
    const uint32_t first = tile * Tile::kKeys;
    load_wide_rows<Tile>(Tile::kKeys, gqa.key_width, shared.keys, [&](uint32_t i) {
      return first + i < rows.keys_in_row() ? rows.key(first + i) : static_cast<const T*>(nullptr);
    });
    load_wide_rows<Tile>(Tile::kKeys, gqa.value_width, shared.values, [&](uint32_t i) {
      return first + i < rows.keys_in_row() ? rows.value(first + i) : static_cast<const T*>(nullptr);
    });
    __syncthreads();
    multiply_wide_keys<Tile>(shared, gqa.key_width);
    __syncthreads();
    softmax.weigh(shared, first);
    __syncthreads();
    add_wide_values<Tile>(shared, sums);
    __syncthreads();
  }
  softmax.finish(shared);
  __syncthreads();
  store_wide_means<Tile>(rows, gqa.value_width, shared, sums, out, seen);
}

static_assert(sizeof(TensorTile<256>::Shared) <= 99 << 10 &&
              sizeof(PlainTile<float, 512>::Shared) <= 99 << 10);

// What both kernels are called with.
template <class T>
struct Call {
  CudaStreamHandle stream;
  const GqaCuda<T>& gqa;
  const QueryBlock* blocks;
  size_t block_count, chunk_begin;
  const T* q;
  T* out;
  DeviceAmax seen;
};

template <class Tile, class T, class Kernel>
void launch(const Call<T>& call, const Kernel& kernel) {
  constexpr int kBytes = sizeof(typename Tile::Shared);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "cudaFuncSetAttribute");
  const uint32_t tiles = kGqaBlockQueries * call.gqa.group() / Tile::kRows;
  const dim3 grid(static_cast<uint32_t>(call.block_count) * tiles, call.gqa.kv_heads);
  kernel<<<grid, kThreads, kBytes, call.stream>>>(call.gqa, call.blocks, tiles, call.chunk_begin, call.q,
                                                  call.out, call.seen);
  check_cuda_launch("gqa");
}

template <class Tile, class T>
void launch_plain(const Call<T>& call) {
  launch<Tile>(call, plain_kernel<Tile>);
}
template <class Tile>
void launch_tensor(const Call<bf16>& call) {
  launch<Tile>(call, tensor_kernel<Tile>);
}

template <class T>
void launch_plain_of_width(const Call<T>& call, uint32_t width) {
  if (width <= 128) return launch_plain<PlainTile<T, 128>>(call);
  if (width <= 256) return launch_plain<PlainTile<T, 256>>(call);
  launch_plain<PlainTile<T, 512>>(call);
}

bool fits_tensor_cores(const Call<bf16>& call, uint32_t width) {
  const GqaCuda<bf16>& gqa = call.gqa;
  return width <= 256 && fits_packs<8>(gqa.key_width, call.q, gqa.keys) &&
         fits_packs<8>(gqa.value_width, call.out, gqa.values);
}

void launch_of_width(const Call<float>& call, uint32_t width) { launch_plain_of_width(call, width); }
void launch_of_width(const Call<bf16>& call, uint32_t width) {
  if (!fits_tensor_cores(call, width)) return launch_plain_of_width(call, width);
  if (width <= 64) return launch_tensor<TensorTile<64>>(call);
  if (width <= 128) return launch_tensor<TensorTile<128>>(call);
  launch_tensor<TensorTile<256>>(call);
}

}  // namespace

template <class T>
void gqa_cuda(CudaStreamHandle stream, const GqaCuda<T>& gqa, const QueryBlock* blocks, size_t block_count,
              size_t chunk_begin, const T* q, T* out, DeviceAmax seen) {
  if (block_count == 0 || gqa.heads == 0) return;
  const uint32_t width = std::max(gqa.key_width, gqa.value_width);
  if (width > kGqaMostWidth) {
    throw Error(ErrorKind::kUnsupported, {}, "heads are too wide for the GPU's attention",
                {.expected = "at most " + std::to_string(kGqaMostWidth) + " channels",
                 .found = std::to_string(width),
                 .hint = "--device cpu does without the GPU"});
  }
  launch_of_width(Call<T>{stream, gqa, blocks, block_count, chunk_begin, q, out, seen}, width);
}

template void gqa_cuda(CudaStreamHandle, const GqaCuda<float>&, const QueryBlock*, size_t, size_t,
                       const float*, float*, DeviceAmax);
template void gqa_cuda(CudaStreamHandle, const GqaCuda<bf16>&, const QueryBlock*, size_t, size_t, const bf16*,
                       bf16*, DeviceAmax);

}  // namespace nibblecast
