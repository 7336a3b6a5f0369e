// After the last layer: the streams become logits.

#include "model/deepseek_v4_head.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "model/deepseek_v4_state.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"

namespace nibblecast {
namespace {

constexpr size_t kHeadTokens = 128;  // whose logits exist at once in nll

// Tokens [begin, begin + count) of all rows: hc_head and the final norm.
template <class T>
std::vector<T> final_hidden(const ForwardState<T>& state, const HeadWeights& weights, size_t begin,
                            size_t count) {
  const size_t width = state.config.hidden_size, stride = state.config.hc_mult * width;
  std::vector<T> x(count * width);
  parallel_for((count + kHyperRows - 1) / kHyperRows, [&](size_t block) {
    const size_t first = block * kHyperRows, tokens = std::min(kHyperRows, count - first);
    thread_local std::vector<float> merged;
    merged.resize(kHyperRows * width);
    merge_streams(weights.hyper, state.streams.data() + (begin + first) * stride, tokens, merged.data());
    for (size_t token = 0; token < tokens; ++token) {
      rmsnorm(merged.data() + token * width, width, weights.norm.data(),
              static_cast<float>(state.config.rms_norm_eps), x.data() + (first + token) * width);
    }
  });
  return x;
}

}  // namespace

float negative_log_likelihood(const float* logits, size_t count, size_t target) {
  const float largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(double{logits[i]} - double{largest});
  return static_cast<float>(std::log(sum) + double{largest} - double{logits[target]});
}

template <class T>
std::vector<float> row_logits(const ForwardState<T>& state, const HeadWeights& weights, size_t row) {
  const RowSpan& span = state.rows.at(row);
  std::vector<float> logits(span.length * state.config.vocab_size);
  const std::vector<T> x = final_hidden(state, weights, span.begin, span.length);
  linear(x.data(), span.length, weights.head, logits.data());
  return logits;
}

template <class T>
std::vector<float> row_nll(const ForwardState<T>& state, const HeadWeights& weights, size_t row) {
  const RowSpan& span = state.rows.at(row);
  const size_t vocabulary = state.config.vocab_size, predicted = span.length == 0 ? 0 : span.length - 1;
  std::vector<float> result(predicted), logits(std::min(kHeadTokens, predicted) * vocabulary);
  for (size_t begin = 0; begin < predicted; begin += kHeadTokens) {
    const size_t count = std::min(kHeadTokens, predicted - begin);
    const std::vector<T> x = final_hidden(state, weights, span.begin + begin, count);
    linear(x.data(), count, weights.head, logits.data());
    parallel_for(count, [&](size_t i) {
      const int32_t target = state.ids[span.begin + begin + i + 1];
      result[begin + i] =
          negative_log_likelihood(logits.data() + i * vocabulary, vocabulary, static_cast<size_t>(target));
    });
  }
  return result;
}

template std::vector<float> row_logits(const ForwardState<float>&, const HeadWeights&, size_t);
template std::vector<float> row_logits(const ForwardState<bf16>&, const HeadWeights&, size_t);
template std::vector<float> row_nll(const ForwardState<float>&, const HeadWeights&, size_t);
template std::vector<float> row_nll(const ForwardState<bf16>&, const HeadWeights&, size_t);

}  // namespace nibblecast
