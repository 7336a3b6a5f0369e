// model/logits.h - what a model's head makes of the rows: logits by blocks, and what they say of the tokens.
//
// No whole row of logits exists: head.weight streams by in blocks of kHeadRows of its rows, and each goes
// over all tokens. So whoever looks at logits keeps a few numbers a token and takes every block into them, as
// ops/cross_entropy.h does; two models' are compared in the same way.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace nibblecast {

class CudaStream;

// Fixed, so that results do not depend on how bytes are cut, on memory or on threads.
inline constexpr size_t kHeadRows = 1024;    // rows of the vocabulary that are there at once
inline constexpr size_t kHeadTokens = 4096;  // tokens whose logits of these rows are

// Logits of tokens [token, token + tokens), which count over all rows one after the other, for rows
// [first, first + count) of the vocabulary; in host memory, until the sink returns, or on a device, as
// ShownValues (model/forward_pass.h).
struct LogitsBlock {
  size_t token = 0, tokens = 0;
  size_t first = 0, count = 0;
  size_t stride = 0;              // floats from one token to the next
  const float* values = nullptr;  // [tokens, count]
  CudaStream* queue = nullptr;
};
// Called from the thread that drives the forward pass: vocabulary ascending, for each part of it the tokens.
using LogitsSink = std::function<void(const LogitsBlock&)>;

// Negative log-likelihood of each row's token t + 1 at t: length - 1 numbers a row, none of an empty one.
using RowLosses = std::vector<std::vector<float>>;

// Of all tokens that have one before them in their row.
struct Perplexity {
  double nll_sum = 0;
  uint64_t tokens = 0;  // predicted; 0: nothing could be measured

  double value() const {
    return tokens == 0 ? std::numeric_limits<double>::quiet_NaN()
                       : std::exp(nll_sum / static_cast<double>(tokens));
  }
  bool operator==(const Perplexity&) const = default;
};

inline Perplexity perplexity_of(const RowLosses& rows) {
  Perplexity all;
  for (const std::vector<float>& row : rows) {
    double sum = 0;
    for (const float nll : row) sum += double{nll};
    all.nll_sum += sum;
    all.tokens += row.size();
  }
  return all;
}

}  // namespace nibblecast
