// ops/router_cuda.h - ops/router.h on a device: each token's experts and their weights from its logits.
#pragma once

#include <cstdint>

#include "base/cuda.h"
#include "ops/router.h"

namespace nibblecast {

inline constexpr uint32_t kMostExperts = 1024;      // that one call can choose among
inline constexpr uint32_t kMostChosenExperts = 32;  // that a token can go to
inline constexpr uint32_t kMostExpertGroups = 32;   // of which the best are chosen first

struct RouterView {
  uint32_t experts = 0, top = 0;
  float scaling = 1;
  const float* bias = nullptr;       // [experts]; null: 0, as in hash layers
  const int64_t* tid2eid = nullptr;  // [vocabulary, top]: a hash layer's experts by token id; else null
  // As in RouterSpec.
  RouterScore score = RouterScore::kSqrtSoftplus;
  bool score_chosen = false, renormalize = true;
  uint32_t groups = 1, top_groups = 1;
  float eps = 0;
};

// `bias`: in device memory, or null.
inline RouterView router_view(const RouterSpec& router, const float* bias) {
  return {.experts = static_cast<uint32_t>(router.experts),
          .top = static_cast<uint32_t>(router.top),
          .scaling = router.scale,
          .bias = bias,
          .score = router.score,
          .score_chosen = router.score_chosen,
          .renormalize = router.renormalize,
          .groups = static_cast<uint32_t>(router.groups),
          .top_groups = static_cast<uint32_t>(router.top_groups),
          .eps = router.eps};
}

// What a call found wrong: zero before; 1 + the token's index where a choice or a weight was NaN, or where
// tid2eid names an expert that does not exist; of several the largest index.
struct RouterFaults {
  uint32_t nan_score = 0, unknown_expert = 0;
};

// logits [tokens, experts] F32, ids [tokens] (hash layers only) -> chosen [tokens, top], largest score + bias
// first, equal ones the lower id first, or in tid2eid's order; weights [tokens, top]. All device memory.
void route_cuda(CudaStreamHandle stream, const RouterView& router, const float* logits, const int32_t* ids,
                size_t tokens, int32_t* chosen, float* weights, RouterFaults* faults);

}  // namespace nibblecast
