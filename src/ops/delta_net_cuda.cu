#include "ops/delta_net_cuda.h"
#include "ops/device_common.cuh"

namespace nibblecast {
namespace {

constexpr uint32_t kThreads = 256;

__device__ float silu(float x) { return x / (1.0f + expf(-x)); }

// ---- the convolution ----

struct Convolution {
  const float* x;
  const float* history;  // [taps - 1, channels]
  const float* filter;   // [taps, channels]
  const uint32_t* positions;
  uint32_t tokens, channels, taps;
  float* y;
};

// A thread a channel of a token.
__global__ void __launch_bounds__(kThreads) convolve_kernel(Convolution task) {
  const uint32_t channel = blockIdx.x * kThreads + threadIdx.x, token = blockIdx.y;
  if (channel >= task.channels) return;
  const uint32_t most = min(task.positions[token], task.taps - 1);
  float sum = 0;
  for (uint32_t back = most + 1; back-- > 0;) {
    const float x = token >= back
                        ? task.x[size_t{token - back} * task.channels + channel]
                        : task.history[size_t{task.taps - 1 + token - back} * task.channels + channel];
    sum += x * task.filter[size_t{task.taps - 1 - back} * task.channels + channel];
  }
  task.y[size_t{token} * task.channels + channel] = silu(sum);
}

// ---- q and k at length 1, in place ----

// A warp a head of a token; heads of q, then those of k.
__global__ void __launch_bounds__(kMostThreads)
    normalize_kernel(float* channels, size_t rows, uint32_t heads, uint32_t width, size_t stride) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const uint32_t head = static_cast<uint32_t>(row % (2 * heads));
  float* const x = channels + row / (2 * heads) * stride + size_t{head} * width;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) squares += x[i] * x[i];
  const float length = sqrtf(row_sum(squares) + kDeltaHeadEps);
  const float scale = (head < heads ? 1.0f / sqrtf(static_cast<float>(width)) : 1.0f) / length;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) x[i] *= scale;
}

// ---- the delta rule ----

constexpr uint32_t kParts = 4, kColumns = 32;  // threads of a column of the state, columns of a block
constexpr uint32_t kTile = 16;                 // tokens that are loaded at once

struct Rule {
  const float *channels, *a, *b, *decay_log, *step_bias;
  const RowOfGroup* rows;
  uint32_t begin, count;  // of the chunk, in the group
  uint32_t key_width, value_width, keys, value_heads, group;
  float* carried;
  float* o;
};

// A chunk's part of a row, in tokens of the chunk.
struct RowPart {
  uint32_t begin, end;
  bool goes_on, ends;
};

__device__ RowPart part_of(const Rule& rule, const RowOfGroup& row) {
  const uint32_t row_end = row.begin + row.length, chunk_end = rule.begin + rule.count;
  const uint32_t begin = max(row.begin, rule.begin), end = min(row_end, chunk_end);
  if (begin >= end) return {0, 0, false, true};
  return {begin - rule.begin, end - rule.begin, row.begin < rule.begin, row_end <= chunk_end};
}

template <uint32_t kHeld>
struct Tile {
  float keys[kTile][kParts * kHeld], queries[kTile][kParts * kHeld];  // 0 past the head's channels
  float values[kTile][kColumns];
  float decays[kTile], betas[kTile];
};

template <uint32_t kHeld>
__device__ void load_tile(const Rule& rule, uint32_t first, uint32_t count, Tile<kHeld>& tile) {
  constexpr uint32_t kRows = kParts * kHeld;
  const uint32_t head = blockIdx.y, key_at = head / rule.group * rule.key_width;
  const size_t stride = 2 * size_t{rule.keys} + size_t{rule.value_heads} * rule.value_width;
  for (uint32_t at = threadIdx.x; at < count * kRows; at += blockDim.x) {
    const uint32_t token = at / kRows, i = at % kRows;
    const float* own = rule.channels + (first + token) * stride + key_at + i;
    tile.queries[token][i] = i < rule.key_width ? own[0] : 0.0f;
    tile.keys[token][i] = i < rule.key_width ? own[rule.keys] : 0.0f;
  }
  for (uint32_t at = threadIdx.x; at < count * kColumns; at += blockDim.x) {
    const uint32_t token = at / kColumns, column = blockIdx.z * kColumns + at % kColumns;
    const float* own = rule.channels + (first + token) * stride + 2 * rule.keys + head * rule.value_width;
    tile.values[token][at % kColumns] = column < rule.value_width ? own[column] : 0.0f;
  }
  if (threadIdx.x >= count) return;
  const size_t gate = size_t{first + threadIdx.x} * rule.value_heads + head;
  const float x = rule.a[gate] + rule.step_bias[head];
  const float step = x > 20.0f ? x : log1pf(expf(x));
  tile.decays[threadIdx.x] = expf(-expf(rule.decay_log[head]) * step);
  tile.betas[threadIdx.x] = 1.0f / (1.0f + expf(-rule.b[gate]));
}

// Of the threads of a column, to each the same bits.
__device__ float column_sum(const float (&sums)[4]) {
  float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  return sum + __shfl_xor_sync(kAllLanes, sum, 2);
}

// A thread holds rows 16 n + 4 part + 0..3 of a column of the state, so that its keys are one load.
template <uint32_t kHeld>
__device__ float step(const Tile<kHeld>& tile, uint32_t token, uint32_t part, uint32_t column,
                      float (&state)[kHeld]) {
  const float decay = tile.decays[token];
  float found[4] = {}, out[4] = {};
#pragma unroll
  for (uint32_t r = 0; r < kHeld; r += 4) {
    const float4 key = *reinterpret_cast<const float4*>(&tile.keys[token][4 * r + 4 * part]);
    found[0] += (state[r] *= decay) * key.x;
    found[1] += (state[r + 1] *= decay) * key.y;
    found[2] += (state[r + 2] *= decay) * key.z;
    found[3] += (state[r + 3] *= decay) * key.w;
  }
  const float change = (tile.values[token][column] - column_sum(found)) * tile.betas[token];
#pragma unroll
  for (uint32_t r = 0; r < kHeld; r += 4) {
    const float4 key = *reinterpret_cast<const float4*>(&tile.keys[token][4 * r + 4 * part]);
    const float4 query = *reinterpret_cast<const float4*>(&tile.queries[token][4 * r + 4 * part]);
    out[0] += (state[r] += key.x * change) * query.x;
    out[1] += (state[r + 1] += key.y * change) * query.y;
    out[2] += (state[r + 2] += key.z * change) * query.z;
    out[3] += (state[r + 3] += key.w * change) * query.w;
  }
  return column_sum(out);
}

// f(row of the state, the element of `state` that holds it) for those of a thread that are there.
template <uint32_t kHeld, class F>
__device__ void for_state(uint32_t part, uint32_t key_width, float (&state)[kHeld], const F& f) {
#pragma unroll
  for (uint32_t r = 0; r < kHeld; ++r) {
    const uint32_t row = r / 4 * 16 + 4 * part + r % 4;
    if (row < key_width) f(row, state[r]);
  }
}

// A block: a row, a value head, kColumns columns of its state.
template <uint32_t kHeld>
__global__ void __launch_bounds__(kParts* kColumns) rule_kernel(Rule rule) {
  __shared__ alignas(16) Tile<kHeld> tile;
  const RowPart row = part_of(rule, rule.rows[blockIdx.x]);
  if (row.begin == row.end) return;
  const uint32_t part = threadIdx.x % kParts, own = threadIdx.x / kParts;
  const uint32_t column = blockIdx.z * kColumns + own;
  const bool is_there = column < rule.value_width;
  float* const carried = rule.carried + size_t{blockIdx.y} * rule.key_width * rule.value_width + column;
  float state[kHeld] = {};
  if (row.goes_on && is_there) {
    for_state(part, rule.key_width, state,
              [&](uint32_t i, float& value) { value = carried[size_t{i} * rule.value_width]; });
  }
  for (uint32_t first = row.begin; first < row.end; first += kTile) {
    const uint32_t count = min(kTile, row.end - first);
    __syncthreads();
    load_tile(rule, first, count, tile);
    __syncthreads();
    for (uint32_t token = 0; token < count; ++token) {
      const float out = step(tile, token, part, own, state);
      const size_t at = (size_t{first + token} * rule.value_heads + blockIdx.y) * rule.value_width + column;
      if (part == 0 && is_there) rule.o[at] = out;
    }
  }
  if (row.ends || !is_there) return;
  for_state(part, rule.key_width, state,
            [&](uint32_t i, float& value) { carried[size_t{i} * rule.value_width] = value; });
}

void launch_rule(CudaStreamHandle stream, const Rule& rule, size_t rows) {
  const dim3 grid(static_cast<uint32_t>(rows), rule.value_heads, ceil_div(rule.value_width, kColumns));
  const auto kernel = rule.key_width <= 64    ? rule_kernel<16>
                      : rule.key_width <= 128 ? rule_kernel<32>
                                              : rule_kernel<64>;
  kernel<<<grid, kParts * kColumns, 0, stream>>>(rule);
  check_cuda_launch("delta rule");
}

// ---- the norm ----

// A warp a head of a token.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    gated_norm_kernel(const float* o, const float* z, size_t rows, uint32_t width, const float* weight,
                      float eps, T* y, DeviceAmax seen) {
  const size_t row = row_of_thread();
  if (row >= rows) return;
  const float* const x = o + row * width;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) squares += x[i] * x[i];
  const float factor = 1.0f / sqrtf(row_sum(squares) / static_cast<float>(width) + eps);
  uint32_t largest = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
    const T value = from_float<T>(x[i] * factor * weight[i] * silu(z[row * width + i]));
    y[row * width + i] = value;
    largest = max(largest, magnitude(to_float(value)));
  }
  raise(seen, largest);
}

}  // namespace

template <class T>
void delta_net_cuda(CudaStreamHandle stream, const DeltaNetShape& shape, const DeltaNetVectors& vectors,
                    const DeltaNetInputs& inputs, const DeltaNetChunkCuda& chunk, const DeltaNetCarry& carry,
                    float* channels, float* o, T* out, DeviceAmax seen) {
  if (chunk.count == 0) return;
  const auto narrow = [](size_t value) { return static_cast<uint32_t>(value); };
  const uint32_t all = narrow(shape.channels()), tokens = narrow(chunk.count);
  convolve_kernel<<<dim3(ceil_div(all, kThreads), tokens), kThreads, 0, stream>>>(
      {inputs.x, carry.history, vectors.filter, chunk.positions, tokens, all, narrow(shape.taps), channels});
  check_cuda_launch("convolve");
  if (chunk.begin + chunk.count < chunk.group_tokens && shape.taps > 1) {
    copy_async(stream, carry.history, inputs.x + (chunk.count - (shape.taps - 1)) * all,
               shape.history() * sizeof(float));
  }
  const size_t key_rows = chunk.count * 2 * shape.key_heads;
  const RowGrid keys(key_rows, kWarp);
  normalize_kernel<<<keys.blocks, keys.block, 0, stream>>>(channels, key_rows, narrow(shape.key_heads),
                                                           narrow(shape.key_width), shape.channels());
  check_cuda_launch("normalize");
  launch_rule(stream,
              {channels, inputs.a, inputs.b, vectors.decay_log, vectors.step_bias, chunk.rows,
               narrow(chunk.begin), tokens, narrow(shape.key_width), narrow(shape.value_width),
               narrow(shape.keys()), narrow(shape.value_heads), narrow(shape.group()), carry.state, o},
              chunk.row_count);
  const size_t rows = chunk.count * shape.value_heads;
  const RowGrid grid(rows, kWarp);
  gated_norm_kernel<<<grid.blocks, grid.block, 0, stream>>>(o, inputs.z, rows, narrow(shape.value_width),
                                                            vectors.norm, vectors.eps, out, seen);
  check_cuda_launch("gated norm");
}

template void delta_net_cuda(CudaStreamHandle, const DeltaNetShape&, const DeltaNetVectors&,
                             const DeltaNetInputs&, const DeltaNetChunkCuda&, const DeltaNetCarry&, float*,
                             float*, float*, DeviceAmax);
template void delta_net_cuda(CudaStreamHandle, const DeltaNetShape&, const DeltaNetVectors&,
                             const DeltaNetInputs&, const DeltaNetChunkCuda&, const DeltaNetCarry&, float*,
                             float*, bf16*, DeviceAmax);

}  // namespace nibblecast
