#include "ops/device_common.cuh"
#include "ops/router_cuda.h"

namespace nibblecast {
namespace {

constexpr uint32_t kTokensPerBlock = 8;  // a warp each
static_assert(kMostChosenExperts <= kWarp, "a lane keeps one of a token's experts");

__device__ float warp_max(float value) {
#pragma unroll
  for (uint32_t step = kWarp / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// What the scores of a softmax share.
struct Softmax {
  float largest = 0, sum = 1;
};

// Over the warp's values; lanes without one give -infinity.
__device__ Softmax softmax_of(float value) {
  const float largest = warp_max(value);
  return {largest, warp_sum(expf(value - largest))};
}

__device__ Softmax softmax_of_all(const float* logits, uint32_t experts, uint32_t lane) {
  float largest = -INFINITY, sum = 0;
  for (uint32_t expert = lane; expert < experts; expert += kWarp) largest = fmaxf(largest, logits[expert]);
  largest = warp_max(largest);
  for (uint32_t expert = lane; expert < experts; expert += kWarp) sum += expf(logits[expert] - largest);
  return {largest, warp_sum(sum)};
}

__device__ float score_of(RouterScore score, float logit, const Softmax& softmax) {
  switch (score) {
    case RouterScore::kSigmoid:
      return 1.0f / (1.0f + expf(-logit));
    case RouterScore::kSoftmax:
      return expf(logit - softmax.largest) / softmax.sum;
    case RouterScore::kSqrtSoftplus:
      break;
  }
  // Above 20 the reference's softplus is its argument.
  const float softplus = logit > 20.0f ? logit : log1pf(expf(logit));
  return sqrtf(softplus);
}

// Above 0 for every number, ordered as the numbers are.
__device__ uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ float from_ordered_bits(uint32_t bits) {
  return __uint_as_float(bits ^ (bits >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// The sum of a group's two best choices: of the warp's keys of experts [begin, end).
template <int kPerLane>
__device__ float worth_of_group(const uint32_t (&keys)[kPerLane], uint32_t begin, uint32_t end,
                                uint32_t lane) {
  uint32_t first = 0, second = 0;
#pragma unroll
  for (uint32_t i = 0; i < kPerLane; ++i) {
    const uint32_t expert = lane + i * kWarp, key = expert >= begin && expert < end ? keys[i] : 0;
    second = max(second, min(first, key));
    first = max(first, key);
  }
  const uint32_t largest = __reduce_max_sync(kAllLanes, first);
  const uint32_t owner = __ffs(__ballot_sync(kAllLanes, first == largest)) - 1;
  const uint32_t next = __reduce_max_sync(kAllLanes, lane == owner ? second : first);
  return from_ordered_bits(largest) + from_ordered_bits(next);
}

// Takes the experts of all but the best groups out of the choice. Lane g keeps what group g is worth.
template <int kPerLane>
__device__ void keep_best_groups(const RouterView& router, uint32_t (&keys)[kPerLane], uint32_t lane,
                                 bool* nan) {
  const uint32_t size = router.experts / router.groups;
  uint32_t own = 0, kept = 0;
  for (uint32_t group = 0; group < router.groups; ++group) {
    const float worth = worth_of_group(keys, group * size, (group + 1) * size, lane);
    *nan = *nan || isnan(worth);
    if (lane == group) own = ordered_bits(worth + 0.0f);
  }
  for (uint32_t rank = 0; rank < router.top_groups; ++rank) {
    const uint32_t largest = __reduce_max_sync(kAllLanes, own);
    const uint32_t winner = __ffs(__ballot_sync(kAllLanes, own == largest)) - 1;
    kept |= 1u << winner;
    if (lane == winner) own = 0;
  }
#pragma unroll
  for (uint32_t i = 0; i < kPerLane; ++i) {
    const uint32_t group = min((lane + i * kWarp) / size, kMostExpertGroups - 1);
    if ((kept >> group & 1) == 0) keys[i] = 0;
  }
}

// What the expert is chosen by. Never -0, whose bits are not +0's.
__device__ float choice_of(const RouterView& router, const Softmax& softmax, float logit, uint32_t expert) {
  if (router.score_chosen) return logit + 0.0f;
  return score_of(router.score, logit, softmax) + (router.bias == nullptr ? 0.0f : router.bias[expert]);
}

// Lane i's is the expert with the i-th largest choice. kPerLane: experts / kWarp at most.
template <int kPerLane>
__device__ int32_t choose_experts(const RouterView& router, const Softmax& softmax, const float* logits,
                                  uint32_t lane, bool* nan) {
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
      const float choice = choice_of(router, softmax, held[i], expert);
      found_nan = found_nan || isnan(choice);
      keys[i] = ordered_bits(choice);
    }
  }
  if (router.groups > 1) keep_best_groups(router, keys, lane, &found_nan);
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
  const bool softmax_first = router.score == RouterScore::kSoftmax && !router.score_chosen;
  Softmax softmax = softmax_first ? softmax_of_all(logits, router.experts, lane) : Softmax{};
  const int32_t expert = router.tid2eid == nullptr
                             ? choose_experts<kPerLane>(router, softmax, logits, lane, &nan)
                             : look_up_experts(router, ids[token], lane, &unknown);
  const bool own = lane < router.top;
  const float logit = own ? logits[expert] : -INFINITY;
  if (router.score_chosen && router.score == RouterScore::kSoftmax) softmax = softmax_of(logit);
  const float score = own ? score_of(router.score, logit, softmax) : 0.0f;
  float sum = 0;
  for (uint32_t i = 0; i < router.top; ++i) sum += __shfl_sync(kAllLanes, score, i);
  const float weight = (router.renormalize ? score / (sum + router.eps) : score) * router.scaling;
  if (own) {
    chosen[token * router.top + lane] = expert;
    weights[token * router.top + lane] = weight;
  }
  nan = nan || (router.tid2eid == nullptr && __any_sync(kAllLanes, own && isnan(weight)));
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
