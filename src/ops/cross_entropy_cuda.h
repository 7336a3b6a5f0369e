// ops/cross_entropy_cuda.h - ops/cross_entropy.h on a device, for many tokens at once.
#pragma once

#include "base/cuda.h"
#include "ops/cross_entropy.h"

namespace nibblecast {

// logits [tokens, count] (row stride `stride`), rows [first, first + count) of the vocabulary; targets
// [tokens], states [tokens]. All device memory. A token's result does not depend on the others.
void add_logits_cuda(CudaStreamHandle stream, const float* logits, size_t tokens, size_t count, size_t stride,
                     uint64_t first, const int32_t* targets, CrossEntropy* states);

}  // namespace nibblecast
