#include "ops/device_common.cuh"
#include "ops/router_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kTokensPerBlock = 8;  // a warp each
static_assert(kMostChosenExperts <= kWarp, "a lane keeps one of a token's experts");

__device__ float score_of(float logit) {
  // Above 20 the reference's softplus is its argument.
  const float softplus = logit > 20.0f ? logit : log1pf(expf(logit));
  return sqrtf(softplus);
}

// Above 0 for every number, ordered as the numbers are.
__device__ uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}

// Lane i's is the expert with the i-th largest score + bias. kPerLane: experts / kWarp at most.
template <int kPerLane>
__device__ int32_t choose_experts(const RouterView& router, const float* logits, uint32_t lane, bool* nan) {
  float held[kPerLane];
#pragma unroll
  for (uint32_t i = 0; i < kPerLane; ++i) {
    const uint32_t expert = lane + i * kWarp;
    held[i] = expert < router.experts ? logits[expert] : 0.0f;
  }
  uint32_t keys[kPerLane];  // 0: no expert, or one that is chosen already
  bool found_nan = false;
#pragma unroll
  for (uint32_t i = 0; i < kPerLane; ++i) {
    const uint32_t expert = lane + i * kWarp;
    keys[i] = 0;
    if (expert < router.experts) {
      const float biased = score_of(held[i]) + router.bias[expert];
      found_nan = found_nan || isnan(biased);
      keys[i] = ordered_bits(biased);
    }
  }
  uint32_t own = 0;
  for (uint32_t rank = 0; rank < router.top; ++rank) {
    uint32_t best = 0, expert = lane;
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      if (keys[i] > best) best = keys[i], expert = lane + i * kWarp;  // equal ones: the lower id stays
    }
    const uint32_t largest = __reduce_max_sync(kAllLanes, best);
    const uint32_t winner = __reduce_min_sync(kAllLanes, best == largest ? expert : kMostExperts);
    if (lane == rank) own = winner;
#pragma unroll
    for (uint32_t i = 0; i < kPerLane; ++i) {
      if (winner == lane + i * kWarp) keys[i] = 0;
    }
  }
  *nan = __any_sync(kAllLanes, found_nan);
  return static_cast<int32_t>(own);
}

// Lane i's is the i-th expert that the token's id stands for.
__device__ int32_t look_up_experts(const RouterView& router, int32_t id, uint32_t lane, bool* unknown) {
  const int64_t expert =
      lane < router.top ? router.tid2eid[static_cast<size_t>(id) * router.top + lane] : int64_t{0};
  const bool exists = expert >= 0 && expert < int64_t{router.experts};
  *unknown = __any_sync(kAllLanes, !exists);
  return exists ? static_cast<int32_t>(expert) : 0;
}

template <int kPerLane>
__global__ void __launch_bounds__(kWarp* kTokensPerBlock)
    route_kernel(RouterView router, const float* all_logits, const int32_t* ids, size_t tokens,
                 int32_t* chosen, float* weights, RouterFaults* faults) {
  const size_t token = row_of_thread();
  if (token >= tokens) return;
  const uint32_t lane = threadIdx.x;
  const float* logits = all_logits + token * router.experts;
  bool nan = false, unknown = false;
  const int32_t expert = router.tid2eid == nullptr ? choose_experts<kPerLane>(router, logits, lane, &nan)
                                                   : look_up_experts(router, ids[token], lane, &unknown);
  const float score = lane < router.top ? score_of(logits[expert]) : 0.0f;
  float sum = 0;
  for (uint32_t i = 0; i < router.top; ++i) sum += __shfl_sync(kAllLanes, score, i);
  if (lane < router.top) {
    chosen[token * router.top + lane] = expert;
    weights[token * router.top + lane] = score / sum * router.scaling;
  }
  if (lane == 0 && nan) atomicMax(&faults->nan_score, static_cast<uint32_t>(token + 1));
  if (lane == 0 && unknown) atomicMax(&faults->unknown_expert, static_cast<uint32_t>(token + 1));
}

}  // namespace

void route_cuda(CudaStreamHandle stream, const RouterView& router, const float* logits, const int32_t* ids,
                size_t tokens, int32_t* chosen, float* weights, RouterFaults* faults) {
  if (tokens == 0) return;
  constexpr uint32_t kFewExperts = 512;
  const auto kernel =
      router.experts <= kFewExperts ? route_kernel<kFewExperts / kWarp> : route_kernel<kMostExperts / kWarp>;
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(tokens, size_t{kTokensPerBlock}));
  kernel<<<blocks, dim3(kWarp, kTokensPerBlock), 0, stream>>>(router, logits, ids, tokens, chosen, weights,
                                                              faults);
  check_cuda_launch("route");
}

}  // namespace nibblecast
