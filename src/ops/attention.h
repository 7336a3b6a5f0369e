// ops/attention.h - DeepSeek-V4's attention core: all heads share one vector per key, which is its value too;
// raw keys of a sliding window and compressed entries stand in one softmax, with a sink per head.
//
//   l[j] = (q · key[j]) / sqrt(head_dim);  m = max l;  p[j] = exp(l[j] - m)
//   out = sum p[j] * key[j] / (sum p[j] + exp(sink - m))
//
// Query t sees raw keys max(0, t - window + 1) .. t and entries i < floor((t + 1) / ratio) - of these only
// the chosen ones where `chosen` is given. Dot products, exp and sums in FP32; p is rounded to T before it
// meets the values, the sum of p is not. (DeepSeek-V4 inference/model.py get_window_topk_idxs,
// get_compress_topk_idxs; kernel.py sparse_attn)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

// The keys of one sequence.
template <class T>
struct AttentionKeys {
  size_t head_dim = 0;
  const T* raw = nullptr;  // [length, head_dim]
  size_t length = 0, window = 0;
  const T* entries = nullptr;  // [entry_count, head_dim]
  size_t entry_count = 0, ratio = 0;
  const uint64_t* chosen = nullptr;  // [length, chosen_words]: bit i of a query's words: entry i is kept
  size_t chosen_words = 0;
};

// Queries [first, first + queries), `heads` heads each: q [queries, heads, head_dim] becomes the output.
// sinks [heads]. One thread.
template <class T>
void attend(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
            T* q);

// The definition: one query and head after the other, in double; p is not rounded.
template <class T>
void attend_ref(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
                T* q);

// Bytes that one thread holds in attend() for `queries` * `heads` rows.
template <class T>
size_t attend_scratch_bytes(size_t head_dim, size_t keys);

}  // namespace nibblecast
