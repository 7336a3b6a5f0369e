// ops/indexer_cuda.h - ops/indexer.h on a device: RoPE of the index queries, scores, and the entries chosen.
#pragma once

#include <cstdint>

#include "formats/bf16.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

// Turns the last rope.dims() channels of each head of x [tokens, heads, dim] by positions[token], in place.
template <class T>
void turn_heads_cuda(CudaStreamHandle stream, T* x, size_t tokens, size_t heads, size_t dim,
                     const RopeView& rope, const uint32_t* positions);

// scores [queries, key_count] for q [queries, heads, dim], weights [queries, heads] times `weight_scale`,
// keys [key_count, dim]; heads ascending, FP32. dim is a multiple of 16, at most 128.
template <class T>
void index_scores_cuda(CudaStreamHandle stream, const T* q, const float* weights, float weight_scale,
                       size_t queries, size_t heads, size_t dim, const T* keys, size_t key_count,
                       float* scores);

// For queries at positions first_position .. + queries of one row: of the first (position + 1) / ratio
// scores, the min(top_k, ..) largest, equal scores the lower entry first, as bits of chosen [queries, words],
// written whole. *nan_query: 1 + the largest index of a query with a NaN score; else untouched.
void choose_top_k_cuda(CudaStreamHandle stream, const float* scores, size_t queries, size_t key_count,
                       size_t first_position, size_t ratio, size_t top_k, uint64_t* chosen, size_t words,
                       uint32_t* nan_query);

}  // namespace nibblecast
