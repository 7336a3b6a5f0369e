// ops/attention_cuda.h - ops/attention.h on a device, with the norm and RoPE of the queries before it and the
// inverse RoPE after: raw queries go in, what wo_a takes comes out.
//
// No matrix of queries by keys is held: a block of queries (all heads of a few tokens of one row) meets its
// keys tile by tile with a running maximum. p is rounded to T against the running maximum of its tile, so
// results differ from the CPU's within that rounding. They do not depend on how queries are divided into
// calls, as blocks start at multiples of kAttentionBlockQueries in their row.
#pragma once

#include <cstdint>

#include "formats/bf16.h"
#include "ops/amax_cuda.h"
#include "ops/compressor_cuda.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

inline constexpr uint32_t kAttentionBlockQueries = 16;

// Queries [first, first + count) of one row, the unit of work: first is a multiple of
// kAttentionBlockQueries, count at most that.
struct QueryBlock {
  uint32_t row = 0;    // index into `rows`
  uint32_t first = 0;  // position in the row
  uint32_t count = 0;
};

// All pointers are device memory.
template <class T>
struct AttentionCuda {
  uint32_t heads = 0, width = 0;   // width: head_dim, a multiple of 16, at most 512
  uint32_t window = 0, ratio = 0;  // ratio 0: no entries
  const RowOfGroup* rows = nullptr;
  const T* raw = nullptr;      // [tokens of the group, width]
  const T* entries = nullptr;  // [entries of the group, width], as compress_cuda writes them
  // [tokens of the group, chosen_words]: bit i: the row's entry i is kept; null: every visible entry.
  const uint64_t* chosen = nullptr;
  uint32_t chosen_words = 0;
  const float* sinks = nullptr;  // [heads]
  float eps = 0;                 // of the queries' RMSNorm, which has no weight
  RopeView rope;
};

// blocks [block_count]: queries of the chunk that begins at token `chunk_begin` of the group. q [tokens of
// the chunk, heads, width] becomes the output. max |output| into `seen`.
template <class T>
void attend_cuda(CudaStreamHandle stream, const AttentionCuda<T>& attention, const QueryBlock* blocks,
                 size_t block_count, size_t chunk_begin, T* q, DeviceAmax seen);

}  // namespace nibblecast
