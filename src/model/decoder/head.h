// model/decoder/head.h - after the last layer: the residual stream becomes logits, and those what they say of
// the tokens (model/logits.h). The steps in their order; D computes them (model/decoder/cpu_ops.h).
//
// While one block of the head's rows goes over the tokens, a device may take the next one.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "formats/bf16.h"
#include "model/decoder_spec.h"
#include "model/logits.h"

namespace nibblecast {

template <class D>
class LogitsHead {
 public:
  using T = typename D::Element;

  // Norms the residual stream in place; `device` outlives this. `sink` may be empty.
  // `wide`: the weight comes in FP32.
  LogitsHead(D& device, const DecoderSpec& spec, const float* norm, LogitsSink sink, bool wide)
      : device_(device), hidden_(spec.hidden), vocab_(spec.vocab), wide_(wide), sink_(std::move(sink)) {
    device_.begin_head();
    for_tokens([&](size_t begin, size_t count) {
      T* const x = device_.load(begin, count);
      device_.norm(x, count, hidden_, norm, spec.norm, x, nullptr);
      device_.store(begin, count, x);
    });
  }

  // The next bytes of the head's weight ([V, D]), cut anywhere.
  void add(uint64_t begin, std::span<const std::byte> bytes) {
    const size_t row_bytes = hidden_ * (wide_ ? sizeof(float) : sizeof(bf16));
    assert(begin == first_ * row_bytes + held_);
    (void)begin;
    while (!bytes.empty()) {
      const uint64_t rows = std::min<uint64_t>(kHeadRows, vocab_ - first_);
      const uint64_t taken = std::min<uint64_t>(rows * row_bytes - held_, bytes.size());
      device_.take_head(slot_, held_, bytes.first(taken));
      bytes = bytes.subspan(taken);
      held_ += taken;
      if (held_ < rows * row_bytes) return;
      device_.with_head(slot_, rows, wide_,
                        [&](const typename D::Matrix& weight) { add_rows(weight, rows); });
      slot_ = (slot_ + 1) % D::kSizes.head_slots;
      first_ += rows;
      held_ = 0;
    }
  }

  RowLosses losses() const {  // after all of them
    assert(first_ == vocab_);
    return device_.losses();
  }

 private:
  template <class F>
  void for_tokens(const F& f) const {
    for (size_t begin = 0; begin < device_.tokens(); begin += kHeadTokens)
      f(begin, std::min(kHeadTokens, device_.tokens() - begin));
  }

  void add_rows(const typename D::Matrix& weight, size_t count) {
    float* const logits = device_.work().head.logits;
    for_tokens([&](size_t begin, size_t tokens) {
      device_.multiply(device_.load(begin, tokens), tokens, weight, logits, kHeadRows);
      device_.add_logits(logits, tokens, count, first_, begin);
      if (sink_) device_.show({begin, tokens, first_, count, kHeadRows, logits}, sink_);
    });
  }

  D& device_;
  const uint64_t hidden_, vocab_;
  const bool wide_;
  const LogitsSink sink_;
  size_t slot_ = 0;
  uint64_t first_ = 0;  // row of the vocabulary where the slot begins
  uint64_t held_ = 0;   // bytes in the slot
};

}  // namespace nibblecast
