// A block of threads takes kBlockQueries queries of a row and some heads: its rows are the queries times the
// heads. As all of them share their keys, a tile of keys that is in shared memory once serves every row, for
// both products.
#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "base/integers.h"
#include "ops/attention_cuda.h"
#include "ops/mma_cuda.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kBlockQueries = kAttentionBlockQueries;
constexpr uint32_t kMostWidth = 512;
constexpr uint32_t kEveryLane = 0xffffffff;
constexpr float kHidden = -INFINITY;

// Numbers that one access to memory takes.
template <class T>
struct alignas(16) Vector {
  static constexpr uint32_t kCount = 16 / sizeof(T);
  T values[kCount];
};

// How a block of threads divides its work: `rows` rows meet `keys_at_once` keys, with `stages` tiles of keys
// in shared memory.
template <class Number, uint32_t rows, uint32_t keys_at_once, uint32_t stages, uint32_t threads>
struct Tile {
  using T = Number;
  static constexpr uint32_t kRows = rows, kKeys = keys_at_once, kStages = stages, kThreads = threads;
  static constexpr uint32_t kHeads = rows / kBlockQueries, kWarps = threads / 32;
  static constexpr uint32_t kThreadsPerRow = threads / rows;  // in the softmax, with two keys each at a time
  // Channels of a row of queries or keys. Eight rows' vectors at one channel lie in different banks, as do
  // pairs at one key in the strides below.
  static constexpr uint32_t kStride = kMostWidth + Vector<T>::kCount;
  static constexpr uint32_t kLogitStride = kKeys + 8;
  // p stands row by row for tensor cores, key by key for FMAs.
  static constexpr bool kTensorCores = sizeof(T) == 2;
  static constexpr uint32_t kPStride = kTensorCores ? kKeys + 8 : kRows + 4;

  // Every query sees a key of the first tile: so no running maximum stays -infinity after it.
  static_assert(kKeys >= kBlockQueries && kKeys < 64 && kKeys % (2 * kThreadsPerRow) == 0);
  static_assert(rows % kBlockQueries == 0 && kThreadsPerRow <= 32);

  struct Shared {
    alignas(16) T q[rows * kStride];  // at the end: the output
    alignas(16) T keys[stages][kKeys * kStride];
    alignas(16) float logits[2][rows * kLogitStride];  // products over each half of the channels
    alignas(16) T p[(kTensorCores ? rows : keys_at_once) * kPStride];
    float factor[rows];  // of what was summed so far; at the end: of the sum
    uint64_t masks[stages][kBlockQueries];
  };
};

__device__ __forceinline__ uint32_t lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ uint32_t warp_id() { return threadIdx.x / 32; }

__device__ __forceinline__ float warp_sum(float value) {
  for (uint32_t step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kEveryLane, value, step);
  return value;
}

// The largest of the warp's bits. What is there is read first, so that few threads meet in the atomic.
__device__ __forceinline__ void raise_amax(DeviceAmax seen, uint32_t bits) {
  bits = __reduce_max_sync(kEveryLane, bits);
  if (lane_id() == 0 && bits > *static_cast<volatile uint32_t*>(seen)) atomicMax(seen, bits);
}

// Both halves of the channels are multiples of what a step of multiply_keys takes; zeros fill them up.
__device__ __forceinline__ uint32_t padded_width(uint32_t width) { return ceil_div(width, 64) * 64; }

// direction 1 or -1; `channel` is even.
__device__ __forceinline__ void turn(const RopeView& rope, uint32_t width, uint32_t position,
                                     uint32_t channel, float direction, float& a, float& b) {
  const uint32_t first = width - rope.dims();
  if (channel < first) return;
  const Rope::Turn by = rope.turns[size_t{position} * rope.pairs + (channel - first) / 2];
  const float x = a, y = b, sin = direction * by.sin;
  a = x * by.cos - y * sin;
  b = x * sin + y * by.cos;
}

// The rows of a block of threads.
template <class Tile>
class Rows {
 public:
  using T = typename Tile::T;
  __device__ Rows(const AttentionCuda<T>& attention, const QueryBlock& block, size_t first_token,
                  uint32_t first_head, T* q)
      : attention_(attention),
        block_(block),
        heads_(min(Tile::kHeads, attention.heads - first_head)),
        first_head_(first_head),
        q_(q + (first_token * attention.heads + first_head) * attention.width) {}

  __device__ bool exists(uint32_t row) const {
    return row / Tile::kHeads < block_.count && row % Tile::kHeads < heads_;
  }
  __device__ uint32_t position(uint32_t row) const { return block_.first + row / Tile::kHeads; }
  __device__ float sink(uint32_t row) const {
    return exists(row) ? attention_.sinks[first_head_ + row % Tile::kHeads] : 0.0f;
  }

  // Raw queries -> norm, RoPE, one rounding -> shared memory; zeros for what does not exist.
  __device__ void load(T* to) const {
    for (uint32_t first = warp_id(); first < Tile::kRows; first += kBatch * Tile::kWarps) {
      Vector<T> raw[kBatch][kVectors];
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) read(first + i * Tile::kWarps, raw[i]);
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        norm_and_turn(first + i * Tile::kWarps, raw[i], to + (first + i * Tile::kWarps) * Tile::kStride);
      }
    }
  }

  // The output in shared memory -> over the queries.
  __device__ void store(const T* from, DeviceAmax seen) const {
    uint32_t largest = 0;
    for (uint32_t row = warp_id(); row < Tile::kRows; row += Tile::kWarps) {
      if (!exists(row)) continue;
      for (uint32_t channel = lane_channel(0); channel < attention_.width; channel += kChannelStep) {
        const auto vector = *reinterpret_cast<const Vector<T>*>(from + row * Tile::kStride + channel);
        for (const T value : vector.values) largest = max(largest, __float_as_uint(fabsf(to_float(value))));
        *reinterpret_cast<Vector<T>*>(address(row) + channel) = vector;
      }
    }
    raise_amax(seen, largest);
  }

 private:
  static constexpr uint32_t kBatch = 4;  // rows that a warp reads before it uses the first
  static constexpr uint32_t kChannelStep = 32 * Vector<T>::kCount;
  static constexpr uint32_t kVectors = kMostWidth / kChannelStep;  // of a row, for each lane
  static_assert(Tile::kRows % (kBatch * Tile::kWarps) == 0);

  __device__ static uint32_t lane_channel(uint32_t vector) {
    return vector * kChannelStep + lane_id() * Vector<T>::kCount;
  }
  __device__ T* address(uint32_t row) const {
    return q_ + (size_t{row / Tile::kHeads} * attention_.heads + row % Tile::kHeads) * attention_.width;
  }

  __device__ void read(uint32_t row, Vector<T> (&raw)[kVectors]) const {
    const bool there = exists(row);
#pragma unroll
    for (uint32_t i = 0; i < kVectors; ++i) {
      raw[i] = Vector<T>{};
      if (there && lane_channel(i) < attention_.width) {
        raw[i] = *reinterpret_cast<const Vector<T>*>(address(row) + lane_channel(i));
      }
    }
  }

  __device__ void norm_and_turn(uint32_t row, const Vector<T> (&raw)[kVectors], T* to) const {
    float squares = 0;
#pragma unroll
    for (uint32_t i = 0; i < kVectors; ++i) {
      for (const T value : raw[i].values) squares += to_float(value) * to_float(value);
    }
    const uint32_t width = attention_.width, padded = padded_width(width);
    const float mean = warp_sum(squares) / static_cast<float>(width);
    const float factor = exists(row) ? 1.0f / sqrtf(mean + attention_.eps) : 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kVectors; ++i) {
      if (lane_channel(i) >= padded) continue;
#pragma unroll
      for (uint32_t j = 0; j < Vector<T>::kCount; j += 2) {
        const uint32_t channel = lane_channel(i) + j;
        float a = to_float(raw[i].values[j]) * factor, b = to_float(raw[i].values[j + 1]) * factor;
        if (channel < width && exists(row)) {
          turn(attention_.rope, width, position(row), channel, 1, a, b);
        }
        store_pair(to + channel, a, b);
      }
    }
  }

  const AttentionCuda<T>& attention_;
  const QueryBlock block_;
  const uint32_t heads_, first_head_;
  T* const q_;
};

// The keys that a block of queries sees, tile by tile: raw ones of the window, then entries.
template <class Tile>
class KeyTiles {
 public:
  using T = typename Tile::T;
  __device__ KeyTiles(const AttentionCuda<T>& attention, const RowOfGroup& row, const QueryBlock& block)
      : attention_(attention),
        row_(row),
        block_(block),
        end_(block.first + block.count),
        first_(first_visible(block.first)),
        raw_tiles_(ceil_div(end_ - first_, Tile::kKeys)),
        entries_(visible_entries(end_ - 1)) {}

  __device__ uint32_t count() const { return raw_tiles_ + ceil_div(entries_, Tile::kKeys); }

  // Bit i: query `query` of the block sees the tile's key i. 0 for queries and tiles that do not exist.
  __device__ uint64_t mask(uint32_t tile, uint32_t query) const {
    if (query >= block_.count || tile >= count()) return 0;
    const uint32_t position = block_.first + query;
    if (tile < raw_tiles_) {
      return bits_of_range(first_ + tile * Tile::kKeys, first_visible(position), position + 1);
    }
    const uint32_t first = (tile - raw_tiles_) * Tile::kKeys;
    const uint64_t visible = bits_of_range(first, 0, visible_entries(position));
    return visible == 0 || attention_.chosen == nullptr ? visible : visible & chosen(position, first);
  }

  // Begins to copy a tile to shared memory; zeros for keys that no query sees and channels that do not exist.
  __device__ void load(uint32_t tile, T* to) const {
    const bool raw = tile < raw_tiles_;
    const uint32_t first = raw ? first_ + tile * Tile::kKeys : (tile - raw_tiles_) * Tile::kKeys;
    const uint32_t end = raw ? end_ : entries_, width = attention_.width;
    const T* from = raw ? attention_.raw + size_t{row_.begin} * width
                        : attention_.entries + size_t{row_.first_entry} * width;
    for (uint32_t key = warp_id(); key < Tile::kKeys; key += Tile::kWarps) {
      const T* own = from + size_t{min(first + key, end - 1)} * width;
      for (uint32_t channel = lane_id() * Vector<T>::kCount; channel < padded_width(width);
           channel += 32 * Vector<T>::kCount) {
        const bool present = first + key < end && channel < width;
        copy_16_async(to + key * Tile::kStride + channel, present ? own + channel : own, present);
      }
    }
  }

 private:
  __device__ uint32_t first_visible(uint32_t position) const {
    return position + 1 > attention_.window ? position + 1 - attention_.window : 0;
  }
  __device__ uint32_t visible_entries(uint32_t position) const {
    return attention_.ratio == 0 ? 0 : (position + 1) / attention_.ratio;
  }

  // Bits [begin, end) of a tile whose first key is `first`.
  __device__ static uint64_t bits_of_range(uint32_t first, uint32_t begin, uint32_t end) {
    const auto below = [first](uint32_t key) {  // bits of the tile's keys before `key`
      return (uint64_t{1} << (key <= first ? 0 : min(key - first, Tile::kKeys))) - 1;
    };
    return below(end) & ~below(begin);
  }

  // Bit i: entry first + i is chosen.
  __device__ uint64_t chosen(uint32_t position, uint32_t first) const {
    const uint64_t* words = attention_.chosen + size_t{row_.begin + position} * attention_.chosen_words;
    const uint32_t word = first / 64, shift = first % 64;
    uint64_t bits = words[word] >> shift;
    if (shift > 0 && word + 1 < attention_.chosen_words) bits |= words[word + 1] << (64 - shift);
    return bits;
  }

  const AttentionCuda<T>& attention_;
  const RowOfGroup row_;
  const QueryBlock block_;
  const uint32_t end_, first_, raw_tiles_, entries_;  // raw keys [first_, end_) and entries [0, entries_)
};

// e^x for bf16 is 2^x of logits that are scaled by this.
template <class T>
constexpr float kLogitUnit = sizeof(T) == 2 ? 1.44269504f : 1.0f;

template <class T>
__device__ __forceinline__ float power(float x) {
  if constexpr (sizeof(T) == 4) return expf(x);
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The running maximum and sum of one row, held by its Tile::kThreadsPerRow threads. The sink is the first
// key: it weighs 1 and has no value.
template <class Tile>
class Softmax {
 public:
  using T = typename Tile::T;
  __device__ Softmax(const Rows<Tile>& rows, uint32_t width)
      : scale_(kLogitUnit<T> / sqrtf(static_cast<float>(width))),
        largest_(rows.sink(row()) * kLogitUnit<T>),
        sum_(part() == 0 ? 1.0f : 0.0f) {}

  // Logits of one tile to p, and the factor of all that came before.
  __device__ void weigh(typename Tile::Shared& shared, uint32_t stage) {
    const uint64_t mask = shared.masks[stage][row() / Tile::kHeads];
    float logits[kPairs][2], largest = largest_;
#pragma unroll
    for (uint32_t i = 0; i < kPairs; ++i) {
      const float2 a = read_pair(shared.logits[0], key(i)), b = read_pair(shared.logits[1], key(i));
      logits[i][0] = (mask >> key(i) & 1) != 0 ? (a.x + b.x) * scale_ : kHidden;
      logits[i][1] = (mask >> key(i) & 2) != 0 ? (a.y + b.y) * scale_ : kHidden;
      largest = fmaxf(largest, fmaxf(logits[i][0], logits[i][1]));  // p keeps the NaN that is lost here
    }
    for (uint32_t step = Tile::kThreadsPerRow / 2; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kEveryLane, largest, step));
    }
    const float factor = power<T>(largest_ - largest);
    largest_ = largest;
    sum_ *= factor;
#pragma unroll
    for (uint32_t i = 0; i < kPairs; ++i) {
      const float a = power<T>(logits[i][0] - largest), b = power<T>(logits[i][1] - largest);
      sum_ += a + b;
      store_p(shared.p, key(i), a, b);
    }
    if (part() == 0) shared.factor[row()] = factor;
  }

  // What turns the row's sums into means.
  __device__ void finish(typename Tile::Shared& shared) const {
    float sum = sum_;
    for (uint32_t step = Tile::kThreadsPerRow / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kEveryLane, sum, step);
    }
    if (part() == 0) shared.factor[row()] = 1.0f / sum;
  }

 private:
  static constexpr uint32_t kPairs = Tile::kKeys / (2 * Tile::kThreadsPerRow);

  __device__ static uint32_t row() { return threadIdx.x / Tile::kThreadsPerRow; }
  __device__ static uint32_t part() { return threadIdx.x % Tile::kThreadsPerRow; }
  __device__ static uint32_t key(uint32_t pair) { return 2 * (part() + pair * Tile::kThreadsPerRow); }

  __device__ static float2 read_pair(const float* logits, uint32_t key) {
    return *reinterpret_cast<const float2*>(logits + row() * Tile::kLogitStride + key);
  }
  __device__ static void store_p(T* p, uint32_t key, float a, float b) {
    if constexpr (Tile::kTensorCores) {
      store_pair(p + row() * Tile::kPStride + key, a, b);
    } else {
      p[key * Tile::kPStride + row()] = a;
      p[(key + 1) * Tile::kPStride + row()] = b;
    }
  }

  const float scale_;
  float largest_, sum_;
};

// Both products on tensor cores. Queries by keys: four warps share the tile over each half of the channels.
// p by keys: every warp has all rows of its own channels.
template <class Tile>
class TensorProducts {
 public:
  __device__ static void multiply_keys(typename Tile::Shared& shared, uint32_t stage, uint32_t width) {
    constexpr uint32_t kRowTiles = Tile::kRows / 32, kKeyTiles = Tile::kKeys / 16;  // of 16 rows, of 8 keys
    const uint32_t lane = lane_id(), half = warp_id() / 4;
    const uint32_t row = warp_id() % 4 / 2 * (Tile::kRows / 2), key = warp_id() % 2 * (Tile::kKeys / 2);
    const uint32_t channels = padded_width(width) / 2;
    const bf16* q = shared.q + row * Tile::kStride + half * channels;
    const bf16* keys = shared.keys[stage] + (key + lane % 8) * Tile::kStride + half * channels + lane / 8 * 8;
    float sums[kRowTiles][kKeyTiles][4] = {};
#pragma unroll 2
    for (uint32_t channel = 0; channel < channels; channel += 32) {
      uint32_t left[2][kRowTiles][4], right[kKeyTiles][4];
#pragma unroll
      for (uint32_t i = 0; i < kKeyTiles; ++i) {
        load_matrices(keys + i * 8 * Tile::kStride + channel, right[i]);
      }
#pragma unroll
      for (uint32_t step = 0; step < 2; ++step) {
#pragma unroll
        for (uint32_t i = 0; i < kRowTiles; ++i) {
          load_left(q + i * 16 * Tile::kStride + channel + step * 16, Tile::kStride, lane, left[step][i]);
        }
      }
#pragma unroll
      for (uint32_t step = 0; step < 2; ++step) {
#pragma unroll
        for (uint32_t i = 0; i < kRowTiles; ++i) {
#pragma unroll
          for (uint32_t j = 0; j < kKeyTiles; ++j) {
            multiply_add(left[step][i], right[j][2 * step], right[j][2 * step + 1], sums[i][j]);
          }
        }
      }
    }
    float* logits = shared.logits[half] + (row + lane / 4) * Tile::kLogitStride + key + lane % 4 * 2;
#pragma unroll
    for (uint32_t i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < kKeyTiles; ++j) {
        float* to = logits + i * 16 * Tile::kLogitStride + j * 8;
        store_pair(to, sums[i][j][0], sums[i][j][1]);
        store_pair(to + 8 * Tile::kLogitStride, sums[i][j][2], sums[i][j][3]);
      }
    }
  }

  __device__ void add_values(const typename Tile::Shared& shared, uint32_t stage, uint32_t width) {
    if (first_channel() >= width) return;
    const uint32_t lane = lane_id();
    rescale(shared.factor);
    const bf16* values = shared.keys[stage] + lane % 16 * Tile::kStride + first_channel() + lane / 16 * 8;
#pragma unroll
    for (uint32_t key = 0; key < Tile::kKeys; key += 16) {
      uint32_t left[kRowTiles][4];
#pragma unroll
      for (uint32_t i = 0; i < kRowTiles; ++i) {
        load_left(shared.p + i * 16 * Tile::kPStride + key, Tile::kPStride, lane, left[i]);
      }
#pragma unroll
      for (uint32_t j = 0; j < kChannelTiles; j += 2) {
        uint32_t right[4];  // 16 keys of 16 channels
        load_matrices_transposed(values + key * Tile::kStride + j * 8, right);
#pragma unroll
        for (uint32_t i = 0; i < kRowTiles; ++i) {
          multiply_add(left[i], right[0], right[1], sums_[i][j]);
          multiply_add(left[i], right[2], right[3], sums_[i][j + 1]);
        }
      }
    }
  }

  // f(row, channel, sums of channel and channel + 1).
  template <class F>
  __device__ void for_pairs(const F& f) const {
#pragma unroll
    for (uint32_t i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < kChannelTiles; ++j) {
        const uint32_t row = i * 16 + lane_id() / 4, channel = first_channel() + j * 8 + lane_id() % 4 * 2;
        f(row, channel, sums_[i][j][0], sums_[i][j][1]);
        f(row + 8, channel, sums_[i][j][2], sums_[i][j][3]);
      }
    }
  }

 private:
  static constexpr uint32_t kChannels = kMostWidth / Tile::kWarps;  // of a warp
  static constexpr uint32_t kRowTiles = Tile::kRows / 16, kChannelTiles = kChannels / 8;
  static_assert(Tile::kWarps == 8);

  __device__ static uint32_t first_channel() { return warp_id() * kChannels; }

  __device__ void rescale(const float* factors) {
#pragma unroll
    for (uint32_t i = 0; i < kRowTiles; ++i) {
      const float low = factors[i * 16 + lane_id() / 4], high = factors[i * 16 + lane_id() / 4 + 8];
#pragma unroll
      for (uint32_t j = 0; j < kChannelTiles; ++j) {
        sums_[i][j][0] *= low, sums_[i][j][1] *= low;
        sums_[i][j][2] *= high, sums_[i][j][3] *= high;
      }
    }
  }

  float sums_[kRowTiles][kChannelTiles][4] = {};
};

__device__ __forceinline__ float4 read_vector(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// Both products in FP32. Queries by keys: a thread has two rows and two keys over half of the channels. p by
// keys: every thread has all rows of its own four channels.
template <class Tile>
class PlainProducts {
 public:
  __device__ static void multiply_keys(typename Tile::Shared& shared, uint32_t stage, uint32_t width) {
    const uint32_t half = threadIdx.x / 64, row = threadIdx.x % 64 / 8, key = threadIdx.x % 8;
    const uint32_t channels = padded_width(width) / 2;
    const float* q = shared.q + row * Tile::kStride + half * channels;
    const float* keys = shared.keys[stage] + key * Tile::kStride + half * channels;
    float sums[2][2] = {};
    for (uint32_t channel = 0; channel < channels; channel += 4) {
      float4 left[2], right[2];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        left[i] = read_vector(q + i * 8 * Tile::kStride + channel);
        right[i] = read_vector(keys + i * 8 * Tile::kStride + channel);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
          sums[i][j] += left[i].x * right[j].x;
          sums[i][j] += left[i].y * right[j].y;
          sums[i][j] += left[i].z * right[j].z;
          sums[i][j] += left[i].w * right[j].w;
        }
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        shared.logits[half][(row + i * 8) * Tile::kLogitStride + key + j * 8] = sums[i][j];
      }
    }
  }

  __device__ void add_values(const typename Tile::Shared& shared, uint32_t stage, uint32_t width) {
    if (first_channel() >= width) return;
#pragma unroll
    for (uint32_t row = 0; row < Tile::kRows; ++row) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sums_[row][i] *= shared.factor[row];
    }
    for (uint32_t key = 0; key < Tile::kKeys; ++key) {
      const float4 value = read_vector(shared.keys[stage] + key * Tile::kStride + first_channel());
#pragma unroll
      for (uint32_t row = 0; row < Tile::kRows; row += 4) {
        const float4 p = read_vector(shared.p + key * Tile::kPStride + row);
        add(p.x, value, sums_[row]);
        add(p.y, value, sums_[row + 1]);
        add(p.z, value, sums_[row + 2]);
        add(p.w, value, sums_[row + 3]);
      }
    }
  }

  template <class F>
  __device__ void for_pairs(const F& f) const {
#pragma unroll
    for (uint32_t row = 0; row < Tile::kRows; ++row) {
      f(row, first_channel(), sums_[row][0], sums_[row][1]);
      f(row, first_channel() + 2, sums_[row][2], sums_[row][3]);
    }
  }

 private:
  static_assert(Tile::kThreads == 128 && Tile::kThreads * 4 == kMostWidth);
  static_assert(Tile::kRows == 16 && Tile::kKeys == 16);

  __device__ static uint32_t first_channel() { return threadIdx.x * 4; }

  __device__ static void add(float p, const float4& value, float (&sums)[4]) {
    sums[0] += p * value.x;
    sums[1] += p * value.y;
    sums[2] += p * value.z;
    sums[3] += p * value.w;
  }

  float sums_[Tile::kRows][4] = {};
};

template <class Tile>
using Products = std::conditional_t<Tile::kTensorCores, TensorProducts<Tile>, PlainProducts<Tile>>;

// Sums to means, inverse RoPE, one rounding -> the queries' place in shared memory.
template <class Tile>
__device__ __forceinline__ void finish(const AttentionCuda<typename Tile::T>& attention,
                                       const Rows<Tile>& rows, const Products<Tile>& products,
                                       typename Tile::Shared& shared) {
  products.for_pairs([&](uint32_t row, uint32_t channel, float a, float b) {
    if (channel >= attention.width || !rows.exists(row)) return;
    const float factor = shared.factor[row];
    a *= factor, b *= factor;
    turn(attention.rope, attention.width, rows.position(row), channel, -1, a, b);
    store_pair(shared.q + row * Tile::kStride + channel, a, b);
  });
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    attend_kernel(const __grid_constant__ AttentionCuda<typename Tile::T> attention, const QueryBlock* blocks,
                  size_t chunk_begin, typename Tile::T* q, DeviceAmax seen) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<typename Tile::Shared*>(memory);
  const QueryBlock block = blocks[blockIdx.x];
  if (block.count == 0) return;
  const RowOfGroup row = attention.rows[block.row];
  const Rows<Tile> rows(attention, block, size_t{row.begin} + block.first - chunk_begin,
                        blockIdx.y * Tile::kHeads, q);
  const KeyTiles<Tile> tiles(attention, row, block);
  // Every warp holds the masks of all queries, lane by lane, of the tile that it starts.
  const auto start = [&](uint32_t tile, uint64_t mask, uint32_t stage) {
    if (tile >= tiles.count()) return;
    if (threadIdx.x < kBlockQueries) shared.masks[stage][threadIdx.x] = mask;
    tiles.load(tile, shared.keys[stage]);
  };
  start(0, tiles.mask(0, lane_id()), 0);
  rows.load(shared.q);
  Softmax<Tile> softmax(rows, attention.width);
  Products<Tile> products;
  uint32_t stage = 0;
  for (uint32_t tile = 0; tile < tiles.count();) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody reads the one before
    uint32_t next = tile + 1;
    uint64_t mask = tiles.mask(next, lane_id());  // now, because reading chosen bits takes a while
    products.multiply_keys(shared, stage, attention.width);
    while (next < tiles.count() && !__any_sync(kEveryLane, mask != 0)) mask = tiles.mask(++next, lane_id());
    if constexpr (Tile::kStages == 2) start(next, mask, stage ^ 1);
    __syncthreads();  // logits are there
    softmax.weigh(shared, stage);
    __syncthreads();  // p and factors are there
    products.add_values(shared, stage, attention.width);
    if constexpr (Tile::kStages == 1) {
      __syncthreads();
      start(next, mask, 0);
    }
    tile = next;
    stage = (stage + 1) % Tile::kStages;
  }
  __syncthreads();
  softmax.finish(shared);
  __syncthreads();
  finish(attention, rows, products, shared);
  __syncthreads();
  rows.store(shared.q, seen);
}

// A window of 128 and kBlockQueries queries is three tiles of 48.
using WideTile = Tile<bf16, 64, 48, 2, 256>;    // sm_90, sm_100: 227 KB of shared memory
using MiddleTile = Tile<bf16, 64, 32, 2, 256>;  // sm_80: 163 KB
using NarrowTile = Tile<bf16, 32, 16, 2, 256>;  // sm_89, sm_120: 99 KB
using FloatTile = Tile<float, 16, 16, 1, 128>;
static_assert(sizeof(WideTile::Shared) <= 227 << 10);
static_assert(sizeof(MiddleTile::Shared) <= 163 << 10);
static_assert(sizeof(NarrowTile::Shared) <= 99 << 10 && sizeof(FloatTile::Shared) <= 99 << 10);

size_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

template <class Tile, class... Arguments>
void launch(CudaStreamHandle stream, const AttentionCuda<typename Tile::T>& attention, size_t block_count,
            const Arguments&... arguments) {
  constexpr int kBytes = sizeof(typename Tile::Shared);
  check_cuda(cudaFuncSetAttribute(attend_kernel<Tile>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "cudaFuncSetAttribute");
  const dim3 grid(static_cast<uint32_t>(block_count), ceil_div(attention.heads, Tile::kHeads));
  attend_kernel<Tile><<<grid, Tile::kThreads, kBytes, stream>>>(attention, arguments...);
  check_cuda_launch("attend_kernel");
}

}  // namespace

template <>
void attend_cuda(CudaStreamHandle stream, const AttentionCuda<bf16>& attention, const QueryBlock* blocks,
                 size_t block_count, size_t chunk_begin, bf16* q, DeviceAmax seen) {
  if (block_count == 0 || attention.heads == 0) return;
  const size_t bytes = most_shared_bytes();
  if (bytes >= sizeof(WideTile::Shared)) {
    launch<WideTile>(stream, attention, block_count, blocks, chunk_begin, q, seen);
  } else if (bytes >= sizeof(MiddleTile::Shared)) {
    launch<MiddleTile>(stream, attention, block_count, blocks, chunk_begin, q, seen);
  } else {
    launch<NarrowTile>(stream, attention, block_count, blocks, chunk_begin, q, seen);
  }
}

template <>
void attend_cuda(CudaStreamHandle stream, const AttentionCuda<float>& attention, const QueryBlock* blocks,
                 size_t block_count, size_t chunk_begin, float* q, DeviceAmax seen) {
  if (block_count == 0 || attention.heads == 0) return;
  launch<FloatTile>(stream, attention, block_count, blocks, chunk_begin, q, seen);
}

}  // namespace nibblecast
