// ops/logits_divergence.h - how far a token's distribution b is from a, of logits that come in parts,
// vocabulary ascending:
//
//   KL(a || b) = sum of p_a (log p_a - log p_b), in nats
//              = sum of exp(a - max a) (a - b) / sum_a - log_sum_a + log_sum_b
//
// Of both are kept their maximum and the sum of exp(logit - maximum), and of each the largest logits.
// add_logits_pair() for each part, then what is asked of the state.
//
// logits  F32, of rows [first, first + count) of the vocabulary
// sums    double, over exp() in FP64 (ops/exp.h); their order depends on how the vocabulary is divided and on
//         nothing else, and is one for a and b: of equal logits the divergence is 0 exactly. A NaN or an
//         infinite logit gives NaN.
// largest logits: of equal ones those with the lower number come first
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace nibblecast {

struct LogitsDivergence {
  struct Top {
    float logit = -std::numeric_limits<float>::infinity();
    uint64_t token = UINT64_MAX;
  };
  double sum_a = 0, sum_b = 0;  // of exp(logit - maximum)
  double cross = 0;             // of exp(a - max a) (a - b)
  float max_a = -std::numeric_limits<float>::infinity(), max_b = max_a;
  Top top_a = {};
  std::array<Top, 5> top_b = {};  // descending
};

void add_logits_pair(const float* a, const float* b, size_t count, uint64_t first, LogitsDivergence& state);
// The definition: exp() of the C library, one logit after the other.
void add_logits_pair_ref(const float* a, const float* b, size_t count, uint64_t first,
                         LogitsDivergence& state);

// After the whole vocabulary. May be a little below 0, by rounding.
inline double kl_divergence(const LogitsDivergence& state) {
  return state.cross / state.sum_a - (std::log(state.sum_a) + double{state.max_a}) +
         (std::log(state.sum_b) + double{state.max_b});
}
// Whether both find the same token the most likely.
inline bool same_top1(const LogitsDivergence& state) { return state.top_a.token == state.top_b[0].token; }
// Whether a's most likely token is among b's five most likely ones.
inline bool top1_in_top5(const LogitsDivergence& state) {
  for (const LogitsDivergence::Top& top : state.top_b)
    if (top.token == state.top_a.token) return true;
  return false;
}

}  // namespace nibblecast
