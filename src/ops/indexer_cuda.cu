#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "ops/indexer_cuda.h"
#include "ops/mma_cuda.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256, kWarps = kThreads / 32;
constexpr uint32_t kEveryLane = 0xffffffff;

__device__ __forceinline__ uint32_t lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ uint32_t warp_id() { return threadIdx.x / 32; }

template <class T>
__global__ void __launch_bounds__(kThreads)
    turn_heads_kernel(T* x, size_t pairs, uint32_t heads, uint32_t dim, RopeView rope,
                      const uint32_t* positions) {
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < pairs; i += size_t{gridDim.x} * kThreads) {
    const size_t head = i / rope.pairs, pair = i % rope.pairs;
    T* own = x + (head + 1) * dim - rope.dims() + 2 * pair;
    const Rope::Turn turn = rope.turns[size_t{positions[head / heads]} * rope.pairs + pair];
    const float a = to_float(own[0]), b = to_float(own[1]);
    own[0] = from_float<T>(a * turn.cos - b * turn.sin);
    own[1] = from_float<T>(a * turn.sin + b * turn.cos);
  }
}

template <class T>
struct ScoreInputs {
  const T* q;
  const float* weights;
  float weight_scale;
  uint32_t queries, heads, dim;
  const T* keys;
  uint32_t key_count;
};

// Channels from one row of q or keys to the next in shared memory: rows' vectors lie in different banks.
template <class T>
__host__ __device__ constexpr uint32_t padded_dim(uint32_t dim) {
  return dim + 16 / sizeof(T);
}

// A weighted sum over the heads of relu'd products, for a tile of queries and keys, on tensor cores: each
// warp has 32 of 64 queries and 32 of 128 keys.
class TensorScores {
 public:
  static constexpr uint32_t kQueries = 64, kKeys = 128;

  // q [kQueries, padded dim] and keys [kKeys, padded dim] in shared memory; weight(query).
  template <class Weight>
  __device__ void add_head(const bf16* q, const bf16* keys, uint32_t dim, const Weight& weight) {
    const uint32_t lane = lane_id(), stride = padded_dim<bf16>(dim);
    float weights[2][2];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) weights[i / 2][i % 2] = weight(query() + i / 2 * 16 + i % 2 * 8);
    q += warp_id() / 4 * 32 * stride;
    keys += (warp_id() % 4 * 32 + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
    float dots[2][4][4] = {};
#pragma unroll 4
    for (uint32_t channel = 0; channel < dim; channel += 16) {
      uint32_t left[2][4], right[2][4];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        load_left(q + i * 16 * stride + channel, stride, lane, left[i]);
        load_matrices(keys + i * 16 * stride + channel, right[i]);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          multiply_add(left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1], dots[i][j]);
        }
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
        for (uint32_t at = 0; at < 4; ++at) {
          const float dot = dots[i][j][at];
          scores_[i][j][at] += (dot < 0 ? 0.0f : dot) * weights[i][at / 2];
        }
      }
    }
  }

  // f(query, key, score) of the tile.
  template <class F>
  __device__ void for_scores(const F& f) const {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
        for (uint32_t at = 0; at < 4; ++at) {
          f(query() + i * 16 + at / 2 * 8, warp_id() % 4 * 32 + j * 8 + lane_id() % 4 * 2 + at % 2,
            scores_[i][j][at]);
        }
      }
    }
  }

 private:
  __device__ static uint32_t query() { return warp_id() / 4 * 32 + lane_id() / 4; }

  float scores_[2][4][4] = {};
};

// The same in FP32: each thread has two queries and two keys.
class PlainScores {
 public:
  static constexpr uint32_t kQueries = 32, kKeys = 32;

  template <class Weight>
  __device__ void add_head(const float* q, const float* keys, uint32_t dim, const Weight& weight) {
    const uint32_t stride = padded_dim<float>(dim);
    const float weights[2] = {weight(query()), weight(query() + 16)};
    q += query() * stride;
    keys += key() * stride;
    float dots[2][2] = {};
    for (uint32_t channel = 0; channel < dim; channel += 4) {
      float4 left[2], right[2];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        left[i] = *reinterpret_cast<const float4*>(q + i * 16 * stride + channel);
        right[i] = *reinterpret_cast<const float4*>(keys + i * 16 * stride + channel);
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const float4 &a = left[i / 2], &b = right[i % 2];
        float& dot = dots[i / 2][i % 2];
        dot += a.x * b.x;
        dot += a.y * b.y;
        dot += a.z * b.z;
        dot += a.w * b.w;
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float dot = dots[i / 2][i % 2];
      scores_[i / 2][i % 2] += (dot < 0 ? 0.0f : dot) * weights[i / 2];
    }
  }

  template <class F>
  __device__ void for_scores(const F& f) const {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) f(query() + i / 2 * 16, key() + i % 2 * 16, scores_[i / 2][i % 2]);
  }

 private:
  __device__ static uint32_t query() { return threadIdx.x / 16; }
  __device__ static uint32_t key() { return threadIdx.x % 16; }

  float scores_[2][2] = {};
};

template <class T>
using Scores = std::conditional_t<sizeof(T) == 2, TensorScores, PlainScores>;

// Begins to copy kRows rows [.., dim] that are `from_stride` apart to shared memory; zeros from `count` on.
template <uint32_t kRows, class T>
__device__ __forceinline__ void start_rows(const T* from, size_t from_stride, uint32_t count, uint32_t dim,
                                           T* to) {
  constexpr uint32_t kVector = 16 / sizeof(T);
  const uint32_t vectors = dim / kVector;
  for (uint32_t i = threadIdx.x; i < kRows * vectors; i += kThreads) {
    const uint32_t row = i / vectors, channel = i % vectors * kVector;
    const bool present = row < count;
    copy_16_async(to + row * padded_dim<T>(dim) + channel, from + (present ? row : 0) * from_stride + channel,
                  present);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    index_scores_kernel(const __grid_constant__ ScoreInputs<T> in, float* scores) {
  using Tile = Scores<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  const uint32_t stride = padded_dim<T>(in.dim);
  T* const keys = reinterpret_cast<T*>(memory);  // [kKeys, stride]
  T* const q = keys + Tile::kKeys * stride;      // [2, kQueries, stride]: of this head and the next
  const uint32_t first_key = blockIdx.x * Tile::kKeys, first_query = blockIdx.y * Tile::kQueries;
  const uint32_t queries = min(Tile::kQueries, in.queries - first_query);
  const auto start_head = [&](uint32_t head) {
    start_rows<Tile::kQueries>(in.q + (size_t{first_query} * in.heads + head) * in.dim,
                               size_t{in.heads} * in.dim, queries, in.dim,
                               q + head % 2 * Tile::kQueries * stride);
  };
  start_rows<Tile::kKeys>(in.keys + size_t{first_key} * in.dim, in.dim,
                          min(Tile::kKeys, in.key_count - first_key), in.dim, keys);
  start_head(0);
  Tile tile;
  for (uint32_t head = 0; head < in.heads; ++head) {
    wait_for_copies();
    __syncthreads();  // this head's queries are there, and nobody reads the ones before
    if (head + 1 < in.heads) start_head(head + 1);
    tile.add_head(q + head % 2 * Tile::kQueries * stride, keys, in.dim, [&](uint32_t query) {
      const size_t at = size_t{first_query + query} * in.heads + head;
      return query < queries ? in.weights[at] * in.weight_scale : 0.0f;
    });
  }
  tile.for_scores([&](uint32_t query, uint32_t key, float score) {
    if (query >= queries || first_key + key >= in.key_count) return;
    scores[size_t{first_query + query} * in.key_count + first_key + key] = score;
  });
}

// The order of floats as unsigned integers; -0 and 0 are one number.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// What is kept: scores above `key` in their order, and the first `ties` that equal it.
struct Threshold {
  uint32_t key, ties;
};

// The digit at which the count of larger or equal ones reaches `wanted`, from the counts of all 256 digits;
// `ties`: how many of that digit are wanted. By one warp, and one lane writes.
__device__ void find_digit(const uint32_t* counts, uint32_t wanted, uint32_t* digit, uint32_t* ties) {
  const uint32_t lane = lane_id(), top = 255 - 8 * lane;  // lane 0 has the 8 largest digits
  uint32_t own = 0;
  for (uint32_t i = 0; i < 8; ++i) own += counts[top - i];
  uint32_t end = own;  // of the lanes up to this one
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kEveryLane, end, step);
    if (lane >= step) end += other;
  }
  uint32_t above = end - own;
  if (above >= wanted || end < wanted) return;
  uint32_t found = top;
  while (above + counts[found] < wanted) above += counts[found--];
  *digit = found;
  *ties = wanted - above;
}

// Of `count` scores, none of them NaN, 0 < wanted < count.
__device__ Threshold find_threshold(const float* scores, uint32_t count, uint32_t wanted) {
  static_assert(kThreads == 256);  // a digit each
  __shared__ uint32_t counts[256], digit, ties;
  uint32_t key = 0, known = 0;  // digits found so far, and the bits that they are
  for (int shift = 24; shift >= 0; shift -= 8) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
      const uint32_t own = ordered(scores[i]);
      if ((own & known) == key) atomicAdd(&counts[own >> shift & 0xff], 1u);
    }
    __syncthreads();
    if (warp_id() == 0) find_digit(counts, wanted, &digit, &ties);
    __syncthreads();
    key |= digit << shift;
    known |= 0xffu << shift;
    wanted = ties;
  }
  return {key, wanted};
}

// Bits of kept scores; the ones that equal the threshold are counted in ascending order.
__device__ void write_chosen(const float* scores, uint32_t count, const Threshold& threshold,
                             uint64_t* chosen, uint32_t words) {
  __shared__ uint32_t equal_of_warp[kWarps];
  auto* const halves = reinterpret_cast<uint32_t*>(chosen);  // little-endian: a word's lower half first
  uint32_t equal_before = 0;
  for (uint32_t first = 0; first < words * 64; first += kThreads) {
    const uint32_t i = first + threadIdx.x;
    const uint32_t own = i < count ? ordered(scores[i]) : 0;
    const bool equal = i < count && own == threshold.key;
    const uint32_t equals = __ballot_sync(kEveryLane, equal);
    __syncthreads();  // the counts of the step before have been read
    if (lane_id() == 0) equal_of_warp[warp_id()] = __popc(equals);
    __syncthreads();
    uint32_t rank = equal_before + __popc(equals & ((1u << lane_id()) - 1));
    for (uint32_t warp = 0; warp < kWarps; ++warp) {
      if (warp < warp_id()) rank += equal_of_warp[warp];
      equal_before += equal_of_warp[warp];
    }
    const bool kept = i < count && (own > threshold.key || (equal && rank < threshold.ties));
    const uint32_t bits = __ballot_sync(kEveryLane, kept);
    if (lane_id() == 0 && i < words * 64) halves[i / 32] = bits;
  }
}

__global__ void __launch_bounds__(kThreads)
    choose_top_k_kernel(const float* scores, uint32_t key_count, size_t first_position, size_t ratio,
                        size_t top_k, uint64_t* chosen, uint32_t words, uint32_t* nan_query) {
  const uint32_t query = blockIdx.x;
  const size_t visible = (first_position + query + 1) / ratio;
  const uint32_t count = static_cast<uint32_t>(min(size_t{key_count}, visible));
  const uint32_t wanted = static_cast<uint32_t>(min(top_k, size_t{count}));
  scores += size_t{query} * key_count;
  chosen += size_t{query} * words;
  bool nan = false;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) nan |= isnan(scores[i]);
  nan = __syncthreads_or(nan) != 0;
  if (nan && threadIdx.x == 0) atomicMax(nan_query, query + 1);
  Threshold threshold{0xffffffffu, 0};  // nothing
  if (!nan && wanted == count) {
    threshold = {0, count};  // everything
  } else if (!nan && wanted > 0) {
    threshold = find_threshold(scores, count, wanted);
  }
  write_chosen(scores, count, threshold, chosen, words);
}

}  // namespace

template <class T>
void turn_heads_cuda(CudaStreamHandle stream, T* x, size_t tokens, size_t heads, size_t dim,
                     const RopeView& rope, const uint32_t* positions) {
  const size_t pairs = tokens * heads * rope.pairs;
  if (pairs == 0) return;
  constexpr size_t kMostBlocks = 1 << 16;
  const size_t blocks = std::min((pairs + kThreads - 1) / kThreads, kMostBlocks);
  turn_heads_kernel<<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(
      x, pairs, static_cast<uint32_t>(heads), static_cast<uint32_t>(dim), rope, positions);
  check_cuda_launch("turn_heads_kernel");
}

template <class T>
void index_scores_cuda(CudaStreamHandle stream, const T* q, const float* weights, float weight_scale,
                       size_t queries, size_t heads, size_t dim, const T* keys, size_t key_count,
                       float* scores) {
  if (queries == 0 || key_count == 0) return;
  using Tile = Scores<T>;
  const ScoreInputs<T> in{.q = q,
                          .weights = weights,
                          .weight_scale = weight_scale,
                          .queries = static_cast<uint32_t>(queries),
                          .heads = static_cast<uint32_t>(heads),
                          .dim = static_cast<uint32_t>(dim),
                          .keys = keys,
                          .key_count = static_cast<uint32_t>(key_count)};
  const uint32_t bytes = (Tile::kKeys + 2 * Tile::kQueries) * padded_dim<T>(in.dim) * sizeof(T);
  check_cuda(cudaFuncSetAttribute(index_scores_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)),
             "cudaFuncSetAttribute");
  const dim3 grid((in.key_count + Tile::kKeys - 1) / Tile::kKeys,
                  (in.queries + Tile::kQueries - 1) / Tile::kQueries);
  index_scores_kernel<T><<<grid, kThreads, bytes, stream>>>(in, scores);
  check_cuda_launch("index_scores_kernel");
}

void choose_top_k_cuda(CudaStreamHandle stream, const float* scores, size_t queries, size_t key_count,
                       size_t first_position, size_t ratio, size_t top_k, uint64_t* chosen, size_t words,
                       uint32_t* nan_query) {
  if (queries == 0) return;
  choose_top_k_kernel<<<static_cast<uint32_t>(queries), kThreads, 0, stream>>>(
      scores, static_cast<uint32_t>(key_count), first_position, ratio, top_k, chosen,
      static_cast<uint32_t>(words), nan_query);
  check_cuda_launch("choose_top_k_kernel");
}

template void turn_heads_cuda(CudaStreamHandle, float*, size_t, size_t, size_t, const RopeView&,
                              const uint32_t*);
template void turn_heads_cuda(CudaStreamHandle, bf16*, size_t, size_t, size_t, const RopeView&,
                              const uint32_t*);
template void index_scores_cuda(CudaStreamHandle, const float*, const float*, float, size_t, size_t, size_t,
                                const float*, size_t, float*);
template void index_scores_cuda(CudaStreamHandle, const bf16*, const float*, float, size_t, size_t, size_t,
                                const bf16*, size_t, float*);

}  // namespace nibblecast
