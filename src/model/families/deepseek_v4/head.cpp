#include "model/families/deepseek_v4/head.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "base/parallel.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"

namespace nibblecast {
namespace {

// hc_head and the final norm, of all tokens, to x [tokens, D].
template <class T>
void final_hidden(const ForwardState<T>& state, const HeadWeights& weights, T* x) {
  const size_t width = state.config.hidden_size, stride = state.config.hc_mult * width;
  const size_t count = state.tokens();
  parallel_for((count + kHyperRows - 1) / kHyperRows, [&](size_t block) {
    const size_t first = block * kHyperRows, tokens = std::min(kHyperRows, count - first);
    thread_local std::vector<float> merged;
    merged.resize(kHyperRows * width);
    merge_streams(weights.hyper, state.streams.data() + first * stride, tokens, merged.data());
    for (size_t token = 0; token < tokens; ++token) {
      rmsnorm(merged.data() + token * width, width, weights.norm.data(),
              static_cast<float>(state.config.rms_norm_eps), x + (first + token) * width);
    }
  });
}

}  // namespace

template <class T>
Head<T>::Head(ForwardState<T>& state, const HeadWeights& weights, LogitsSink sink)
    : state_(state),
      sink_(std::move(sink)),
      targets_(next_ids(state.rows, state.ids)),
      states_(state.tokens()) {
  rows_.reserve(std::min<size_t>(kHeadRows, state.config.vocab_size) * state.config.hidden_size *
                sizeof(bf16));
  final_hidden(state, weights, state.x_ffn.take(state.tokens() * state.config.hidden_size));
}

template <class T>
void Head<T>::add(uint64_t begin, std::span<const std::byte> bytes) {
  const size_t row_bytes = state_.config.hidden_size * sizeof(bf16);
  assert(begin == first_ * row_bytes + rows_.size());
  (void)begin;
  const uint64_t end = state_.config.vocab_size * row_bytes;
  while (!bytes.empty()) {
    const uint64_t block = std::min<uint64_t>(kHeadRows * row_bytes, end - first_ * row_bytes);
    const size_t taken = static_cast<size_t>(std::min<uint64_t>(block - rows_.size(), bytes.size()));
    rows_.insert(rows_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
    bytes = bytes.subspan(taken);
    if (rows_.size() < block) return;
    add_rows(rows_);
    first_ += block / row_bytes;
    rows_.clear();
  }
}

template <class T>
void Head<T>::add_rows(std::span<const std::byte> bytes) {
  const size_t width = state_.config.hidden_size, count = bytes.size() / (width * sizeof(bf16));
  const Bf16View weight{bytes.data(), count, width};
  for (size_t token = 0; token < state_.tokens(); token += kHeadTokens) {
    const size_t tokens = std::min(kHeadTokens, state_.tokens() - token);
    float* const logits = logits_.take(tokens * count);
    linear(state_.x_ffn.data() + token * width, tokens, weight, logits);
    parallel_for(tokens, [&](size_t i) {
      add_logits(logits + i * count, count, first_, targets_[token + i], states_[token + i]);
    });
    if (sink_) sink_({token, tokens, first_, count, count, logits});
  }
}

template <class T>
RowLosses Head<T>::losses() const {
  assert(first_ == state_.config.vocab_size);
  return row_losses(state_.rows, states_);
}

template <class T>
uint64_t Head<T>::memory_bytes(const DeepseekV4Config& config, uint64_t tokens, size_t threads) {
  const uint64_t width = config.hidden_size, rows = std::min<uint64_t>(kHeadRows, config.vocab_size);
  const uint64_t per_token = sizeof(CrossEntropy) + sizeof(int32_t) + sizeof(float);
  return rows * width * sizeof(bf16) + std::min<uint64_t>(kHeadTokens, tokens) * rows * sizeof(float) +
         tokens * per_token + threads * kHyperRows * width * sizeof(float);
}

template class Head<float>;
template class Head<bf16>;

}  // namespace nibblecast
