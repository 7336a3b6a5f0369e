// ops/latent_heads_cuda.h - ops/latent_heads.h on a device, for many tokens: the same bits.
#pragma once

#include "base/cuda.h"
#include "ops/latent_heads.h"

namespace nibblecast {

// All pointers are device memory: expanded [tokens, heads, key + value], shared [tokens, shared] ->
// keys [tokens, heads, key + shared], values [tokens, heads, value].
template <class T>
void spread_latent_cuda(CudaStreamHandle stream, const LatentHeads& shape, const float* expanded,
                        const T* shared, size_t tokens, T* keys, T* values);

}  // namespace nibblecast
