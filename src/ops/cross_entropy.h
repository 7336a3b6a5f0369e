// ops/cross_entropy.h - -log softmax(logits)[target] of a token whose logits come in parts, vocabulary
// ascending: what is kept of them is their maximum, the sum of exp(logit - maximum), and the target's logit.
//
//   add_logits(part, count, first, target, state) for each part; then value(state)
//
// logits  F32, of rows [first, first + count) of the vocabulary
// target  a row of the vocabulary, or -1: the token predicts nothing, and the state stays as it is
// sums    double, over exp() in FP32 (ops/exp.h); their order depends on how the vocabulary is divided and on
//         nothing else. A NaN or an infinite logit gives NaN.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace nibblecast {

struct CrossEntropy {
  float largest = -std::numeric_limits<float>::infinity();
  float target = std::numeric_limits<float>::quiet_NaN();  // its logit; NaN until it came
  double sum = 0;                                          // of exp(logit - largest)
};

void add_logits(const float* logits, size_t count, uint64_t first, int64_t target, CrossEntropy& state);

// The definition: all in double.
void add_logits_ref(const float* logits, size_t count, uint64_t first, int64_t target, CrossEntropy& state);

// After the whole vocabulary.
inline double value(const CrossEntropy& state) {
  return std::log(state.sum) + double{state.largest} - double{state.target};
}

}  // namespace nibblecast
