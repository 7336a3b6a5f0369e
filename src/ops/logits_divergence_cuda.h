// ops/logits_divergence_cuda.h - ops/logits_divergence.h on a device, for many tokens at once; exp() is the
// device's, and the order of sums another one, as fixed and as equal for a and b.
#pragma once

#include "base/cuda.h"
#include "ops/logits_divergence.h"

namespace nibblecast {

// a [tokens, count] without gaps, b the same with `b_stride` from one token to the next: rows
// [first, first + count) of the vocabulary; states [tokens]. All device memory. A token's result does not
// depend on the others.
void add_logits_pairs_cuda(CudaStreamHandle stream, const float* a, const float* b, size_t b_stride,
                           size_t tokens, size_t count, uint64_t first, LogitsDivergence* states);

}  // namespace nibblecast
