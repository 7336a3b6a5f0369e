// ops/attention.h - DeepSeek-V4's attention core: all heads share one vector per key, which is its value too;
// raw keys of a sliding window and compressed entries stand in one softmax, with a sink per head.
//
//   l[j] = (q · key[j]) / sqrt(head_dim);  m = max l;  p[j] = exp(l[j] - m)
//   out = sum p[j] * key[j] / (sum p[j] + exp(sink - m))
//
// Query t sees raw keys max(0, t - window + 1) .. t and entries i < floor((t + 1) / ratio) - of these only
// the chosen ones where `chosen` is given. With `rope`, the output's last rope->dims() channels are turned
// back by the query's position, as keys and queries were turned by theirs. Dot products, exp and sums in
// FP32; p is rounded to T before it meets the values, the sum of p is not; the output is rounded once.
// (DeepSeek-V4 inference/model.py get_window_topk_idxs, get_compress_topk_idxs, Attention.forward; kernel.py
// sparse_attn)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"
#include "ops/key_panels.h"
#include "ops/rope.h"

namespace nibblecast {

// The keys of one sequence.
template <class T>
struct AttentionKeys {
  const KeyPanels<T>* raw = nullptr;
  size_t window = 0;
  const KeyPanels<T>* entries = nullptr;  // null: none; else of raw's width
  size_t ratio = 0;
  const uint64_t* chosen = nullptr;  // [queries of the sequence, chosen_words]: bit i: entry i is kept
  size_t chosen_words = 0;
  const Rope* rope = nullptr;
};

// Queries [first, first + queries), `heads` heads each: q [queries, heads, width] becomes the output.
// sinks [heads]. One thread.
template <class T>
void attend(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
            T* q);

// The definition: one query and head after the other, in double; p is not rounded.
template <class T>
void attend_ref(const AttentionKeys<T>& keys, size_t first, size_t queries, size_t heads, const float* sinks,
                T* q);

// Bytes that one thread holds in attend() for keys of `width` channels, of which a query sees `window` raw
// ones and `entries` entries, beyond ops/matmul.h's for kPanel columns and a reduction of
// attend_deepest(width).
template <class T>
size_t attend_scratch_bytes(size_t width, size_t window, size_t entries);
size_t attend_deepest(size_t width);

}  // namespace nibblecast
