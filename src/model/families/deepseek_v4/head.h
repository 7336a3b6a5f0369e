// model/families/deepseek_v4/head.h - the end of the forward pass on the CPU: the streams become logits, and what
// those say of the tokens. Internal to model/deepseek_v4*.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/families/deepseek_v4/state.h"
#include "model/families/deepseek_v4/weights.h"
#include "model/logits.h"
#include "ops/cross_entropy.h"
#include "ops/workspace.h"

namespace nibblecast {

template <class T>
class Head {
 public:
  // Streams to what the head sees, in state.x_ffn. `state` outlives this.
  Head(ForwardState<T>& state, const HeadWeights& weights, LogitsSink sink);

  // The next bytes of head.weight (BF16 [V, D]), cut anywhere.
  void add(uint64_t begin, std::span<const std::byte> bytes);
  RowLosses losses() const;  // after all of them

  static uint64_t memory_bytes(const DeepseekV4Config& config, uint64_t tokens, size_t threads);

 private:
  void add_rows(std::span<const std::byte> bytes);

  const ForwardState<T>& state_;
  const LogitsSink sink_;
  const std::vector<int32_t> targets_;
  std::vector<CrossEntropy> states_;  // [tokens]
  std::vector<std::byte> rows_;       // of head.weight, fewer than kHeadRows
  Workspace<float> logits_;
  uint64_t first_ = 0;  // row of the vocabulary where rows_ begins
};

}  // namespace nibblecast
