// ops/heads_cuda.h - ops/heads.h on a device, for the heads of many tokens. A head's result depends on
// nothing but the head and its position. (In rmsnorm_cuda.cu, whose kernel it is.)
#pragma once

#include <cstdint>

#include "base/cuda.h"
#include "ops/heads.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

// x [tokens, heads, width] -> y of the same shape; y may be x where From is T. norm->weight and positions
// [tokens] are device memory; norm may be null; a rope without pairs turns nothing.
template <class From, class T>
void norm_and_turn_heads_cuda(CudaStreamHandle stream, const From* x, size_t tokens, size_t heads,
                              size_t width, const HeadNorm* norm, const RopeView& rope,
                              const uint32_t* positions, T* y);

}  // namespace nibblecast
