// ops/router_cuda.h - ops/router.h on a device: each token's experts and their weights from its logits.
#pragma once

#include <cstdint>

#include "base/cuda.h"

namespace nibblecast {

inline constexpr uint32_t kMostExperts = 1024;      // that one call can choose among
inline constexpr uint32_t kMostChosenExperts = 32;  // that a token can go to

struct RouterView {
  uint32_t experts = 0, top = 0;
  float scaling = 1;
  const float* bias = nullptr;       // [experts]; null in hash layers
  const int64_t* tid2eid = nullptr;  // [vocabulary, top]: a hash layer's experts by token id; else null
};

// What a call found wrong: zero before; 1 + the token's index where a score was NaN, or where tid2eid names
// an expert that does not exist; of several the largest index.
struct RouterFaults {
  uint32_t nan_score = 0, unknown_expert = 0;
};

// logits [tokens, experts] F32, ids [tokens] (hash layers only) -> chosen [tokens, top], largest score + bias
// first, equal ones the lower id first, or in tid2eid's order; weights [tokens, top]. All device memory.
void route_cuda(CudaStreamHandle stream, const RouterView& router, const float* logits, const int32_t* ids,
                size_t tokens, int32_t* chosen, float* weights, RouterFaults* faults);

}  // namespace nibblecast
