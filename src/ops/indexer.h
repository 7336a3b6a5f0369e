// ops/indexer.h - which compressed entries a query of a CSA layer attends to: the top_k of the visible ones
// by
//
//   score[i] = sum over heads h of relu(q[h] · key[i]) * weight[h]
//
// in FP32, heads ascending. Equal scores: the lower entry first. The reference's Hadamard rotation of q and
// key leaves q · key as it is and is left out with the FP4 rounding that it serves.
// (DeepSeek-V4 inference/model.py, Indexer)
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/bf16.h"

namespace nibblecast {

inline constexpr size_t kIndexKeyStep = 256;  // keys [count, dim] are padded with zeros to a multiple of this

// scores [queries, key_count] for q [queries, heads, dim], weights [queries, heads]; key_count is a multiple
// of kIndexKeyStep. One thread.
template <class T>
void index_scores(const T* q, const float* weights, size_t queries, size_t heads, size_t dim, const T* keys,
                  size_t key_count, float* scores);
template <class T>
void index_scores_ref(const T* q, const float* weights, size_t queries, size_t heads, size_t dim,
                      const T* keys, size_t key_count, float* scores);

// Sets bit i (word i / 64) for each of the min(top_k, count) largest scores[i], i < count; `words` words are
// written whole. False, and nothing chosen, if a score is NaN.
bool choose_top_k(const float* scores, size_t count, size_t top_k, uint64_t* chosen, size_t words);

}  // namespace nibblecast
