// ops/gqa.h - softmax attention in which groups of query heads share a key and value head: grouped-query
// attention, with kv_heads == heads multi-head, with one kv head multi-query.
//
//   l[j] = scale * (q · key[j]);  m = max(max l, sink);  p[j] = exp(l[j] - m)
//   out = sum p[j] * value[j] / (sum p[j] + exp(sink - m))
//
// Query head h reads kv head h / group(). Query t of a sequence sees keys max(0, t - window + 1) .. t. Keys
// and values may have different widths. Dot products, exp and sums in FP32; p is rounded to T before it meets
// the values, the sum of p is not; the output is rounded once. No matrix of queries by keys is held: a block
// of queries meets its keys in fixed steps with a running maximum.
// (transformers 5.23, eager_attention_forward of models/qwen3 and, with sinks, models/gpt_oss)
#pragma once

#include <cstddef>
#include <vector>

#include "formats/bf16.h"
#include "ops/key_panels.h"

namespace nibblecast {

struct GqaShape {
  size_t heads = 0, kv_heads = 0;         // heads: a multiple of kv_heads
  size_t key_width = 0, value_width = 0;  // channels of a head
  float scale = 1;
  size_t window = 0;  // keys that a query sees, its own included; 0: all before it

  size_t group() const { return heads / kv_heads; }
};

// A sequence's keys [length, kv_heads, key_width] and values [length, kv_heads, value_width], laid out once
// for the products, on several threads.
template <class T>
class GqaKeys {
 public:
  GqaKeys(const GqaShape& shape, const T* keys, const T* values, size_t length);

  const KeyPanels<T>& keys(size_t kv_head) const { return keys_[kv_head]; }
  const KeyPanels<T>& values(size_t kv_head) const { return values_[kv_head]; }

  static size_t bytes(const GqaShape& shape, size_t length);

 private:
  std::vector<KeyPanels<T>> keys_, values_;
};

// Queries of a block.
size_t gqa_block_queries(const GqaShape& shape);

// Queries [first, first + count) with the heads of one kv head. first is a multiple of gqa_block_queries(),
// count at most that. q [count, heads, key_width] -> out [count, heads, value_width], of which only those
// heads are read and written. sinks [heads], or null: none. One thread.
template <class T>
void attend_gqa(const GqaShape& shape, const GqaKeys<T>& keys, size_t kv_head, size_t first, size_t count,
                const float* sinks, const T* q, T* out);

// A whole sequence, on several threads: q [length, heads, key_width], keys and values as GqaKeys takes them
// -> out [length, heads, value_width].
template <class T>
void gqa(const GqaShape& shape, const T* q, const T* keys, const T* values, size_t length, const float* sinks,
         T* out);

// The definition: one query and head after the other, in double; p is not rounded.
template <class T>
void gqa_ref(const GqaShape& shape, const T* q, const T* keys, const T* values, size_t length,
             const float* sinks, T* out);

// Bytes that one thread holds in attend_gqa(), beyond ops/matmul.h's for kPanel columns and a reduction of
// gqa_deepest().
template <class T>
size_t gqa_scratch_bytes(const GqaShape& shape);
size_t gqa_deepest(const GqaShape& shape);

}  // namespace nibblecast
