// ops/gqa_cuda.h - ops/gqa.h on a device, for blocks of queries of several rows.
//
// As on the CPU p is rounded to T against the running maximum, in steps of other sizes, so results differ
// from the CPU's within that rounding. They do not depend on how queries are divided into calls, as blocks
// start at multiples of kGqaBlockQueries in their row, nor on other rows.
#pragma once

#include <cstdint>

#include "ops/amax_cuda.h"
#include "ops/attention_cuda.h"
#include "ops/gqa.h"

namespace nibblecast {

inline constexpr uint32_t kGqaBlockQueries = 64;
inline constexpr uint32_t kGqaMostWidth = 512;  // of keys and values

// All pointers are device memory.
template <class T>
struct GqaCuda {
  uint32_t heads = 0, kv_heads = 0;         // heads: a multiple of kv_heads
  uint32_t key_width = 0, value_width = 0;  // at most kGqaMostWidth
  float scale = 1;
  uint32_t window = 0;  // 0: none
  const RowOfGroup* rows = nullptr;
  const T* keys = nullptr;       // [tokens of the group, kv_heads, key_width]
  const T* values = nullptr;     // [tokens of the group, kv_heads, value_width]
  const float* sinks = nullptr;  // [heads]; null: none

  constexpr uint32_t group() const { return heads / kv_heads; }
};

template <class T>
GqaCuda<T> gqa_view(const GqaShape& shape) {
  return {.heads = static_cast<uint32_t>(shape.heads),
          .kv_heads = static_cast<uint32_t>(shape.kv_heads),
          .key_width = static_cast<uint32_t>(shape.key_width),
          .value_width = static_cast<uint32_t>(shape.value_width),
          .scale = shape.scale,
          .window = static_cast<uint32_t>(shape.window)};
}

// blocks [block_count]: queries of the chunk that begins at token `chunk_begin` of the group, each with first
// a multiple of kGqaBlockQueries and count at most that. q [tokens of the chunk, heads, key_width] -> out
// [tokens of the chunk, heads, value_width]. max |output| into `seen`, which may be null.
template <class T>
void gqa_cuda(CudaStreamHandle stream, const GqaCuda<T>& gqa, const QueryBlock* blocks, size_t block_count,
              size_t chunk_begin, const T* q, T* out, DeviceAmax seen);

}  // namespace nibblecast
