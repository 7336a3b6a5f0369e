// ops/second_moments.h - the mean of x^2 of each channel of an input, over tokens.
//
// Squares of FP32 or BF16 values are exact in double; their sums are added one token after the other, channel
// by channel, so they depend on the order of the tokens and on nothing else: not on threads, nor on how
// tokens are divided into calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {

class SecondMoments {
 public:
  // Channels [first, first + width) of `rows` tokens, which come after those before. x [rows, width]. Tokens
  // are counted with channel 0.
  template <class T>
  void add(const T* x, size_t rows, size_t width, size_t first = 0);

  uint64_t tokens() const { return tokens_; }
  // [channels], rounded once to FP32, which may overflow to infinity; none before the first add().
  std::vector<float> means() const;

 private:
  std::vector<double> sums_;
  uint64_t tokens_ = 0;
};

}  // namespace nibblecast
