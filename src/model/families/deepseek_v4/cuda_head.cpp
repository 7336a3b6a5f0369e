#include "model/families/deepseek_v4/cuda_head.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "formats/stored_linear_cuda.h"
#include "ops/cross_entropy_cuda.h"

namespace nibblecast {

template <class T>
CudaHead<T>::CudaHead(CudaForwardState<T>& state, HeadWeights weights, LogitsSink sink)
    : state_(state),
      buffers_(state.work->head),
      weights_(std::move(weights)),
      sink_(std::move(sink)),
      targets_(next_ids(state.rows, state.ids)),
      states_(state.token_count()) {
  state_.compute_clock.time(state_.computing, [&] {
    state_.timed(Part::kHead, [&] {
      upload();
      make_hidden();
    });
  });
  ready_.record(state_.computing);
  state_.copying.wait(ready_);
}

template <class T>
void CudaHead<T>::upload() {
  const auto send = [&](const auto& from, auto* to) {
    copy_async(state_.computing, to, from.data(), from.size() * sizeof(from[0]));
  };
  send(weights_.hyper.fn, buffers_.fn);
  send(weights_.hyper.base, buffers_.base);
  send(weights_.hyper.scale, buffers_.scale);
  send(weights_.norm, buffers_.norm);
  send(targets_, buffers_.targets);
  send(states_, buffers_.states);
  split_fn_cuda(state_.computing, buffers_.fn, weights_.hyper.fn.size(), buffers_.fn_parts);
}

template <class T>
void CudaHead<T>::make_hidden() {
  const size_t width = state_.config.hidden_size, streams_count = state_.config.hc_mult;
  const HyperConnectionView hyper{.streams = static_cast<uint32_t>(streams_count),
                                  .width = static_cast<uint32_t>(width),
                                  .eps = weights_.hyper.eps,
                                  .norm_eps = weights_.hyper.norm_eps,
                                  .base = buffers_.base,
                                  .scale = buffers_.scale};
  for (size_t begin = 0; begin < state_.token_count(); begin += kHeadTokens) {
    const size_t count = std::min(kHeadTokens, state_.token_count() - begin);
    const T* const streams = state_.load_streams(begin, count, buffers_.streams);
    multiply_fn(state_, streams, count, buffers_.fn_parts, kFnParts<T> * streams_count, buffers_.products);
    merge_streams_cuda(state_.computing, hyper, streams, count, buffers_.products, buffers_.norm,
                       state_.tokens->x_ffn + begin * width);
  }
}

template <class T>
void CudaHead<T>::add(uint64_t begin, std::span<const std::byte> bytes) {
  const size_t row_bytes = state_.config.hidden_size * sizeof(bf16);
  assert(begin == first_ * row_bytes + held_);
  (void)begin;
  while (!bytes.empty()) {
    Slot& slot = slots_[slot_];
    const uint64_t rows = std::min<uint64_t>(kHeadRows, state_.config.vocab_size - first_);
    const uint64_t taken = std::min<uint64_t>(rows * row_bytes - held_, bytes.size());
    if (held_ == 0) state_.copying.wait(slot.used);
    std::byte* const to = reinterpret_cast<std::byte*>(buffers_.stored[slot_]) + held_;
    state_.copy_clock.time(state_.copying, [&] { state_.send(to, bytes.data(), taken); });
    bytes = bytes.subspan(taken);
    held_ += taken;
    if (held_ < rows * row_bytes) return;
    slot.copied.record(state_.copying);
    state_.computing.wait(slot.copied);
    state_.compute_clock.time(state_.computing, [&] {
      state_.timed(Part::kHead, [&] { add_rows(buffers_.stored[slot_], rows); });
    });
    slot.used.record(state_.computing);
    slot_ ^= 1;
    first_ += rows;
    held_ = 0;
  }
}

template <class T>
void CudaHead<T>::add_rows(const bf16* stored, size_t count) {
  const size_t width = state_.config.hidden_size;
  const T* rows = nullptr;
  if constexpr (std::is_same_v<T, bf16>) {
    rows = stored;
  } else {
    dequantize_rows_cuda(state_.computing, Bf16View{stored, count, width}, 0, count, buffers_.rows, width);
    rows = buffers_.rows;
  }
  for (size_t token = 0; token < state_.token_count(); token += kHeadTokens) {
    const size_t tokens = std::min(kHeadTokens, state_.token_count() - token);
    const ProductShape shape{.m = tokens, .n = count, .k = width, .x_stride = width, .y_stride = kHeadRows};
    state_.products.multiply(state_.computing, shape, state_.tokens->x_ffn + token * width, rows,
                             buffers_.logits);
    add_logits_cuda(state_.computing, buffers_.logits, tokens, count, kHeadRows, first_,
                    buffers_.targets + token, buffers_.states + token);
    if (sink_) show({token, tokens, first_, count, kHeadRows, buffers_.logits});
  }
}

template <class T>
void CudaHead<T>::show(const LogitsBlock& on_device) const {
  if (state_.show_in_place) {
    LogitsBlock here = on_device;
    here.queue = &state_.computing;
    return sink_(here);
  }
  std::vector<float> values(on_device.tokens * on_device.stride);
  copy_async(state_.computing, values.data(), on_device.values, values.size() * sizeof(float));
  state_.computing.synchronize();
  LogitsBlock block = on_device;
  block.values = values.data();
  sink_(block);
}

template <class T>
RowLosses CudaHead<T>::losses() {
  assert(first_ == state_.config.vocab_size);
  copy_async(state_.computing, states_.data(), buffers_.states, states_.size() * sizeof(CrossEntropy));
  state_.computing.synchronize();
  return row_losses(state_.rows, states_);
}

template class CudaHead<float>;
template class CudaHead<bf16>;

}  // namespace nibblecast
