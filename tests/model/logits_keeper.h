// tests/model/logits_keeper.h - what a forward pass' head gives, in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "model/forward_pass.h"

namespace nibblecast::testing {

// A sink that keeps all logits, [tokens, V].
class LogitsKeeper {
 public:
  LogitsKeeper(size_t tokens, size_t vocabulary) : vocabulary_(vocabulary), values_(tokens * vocabulary) {}

  LogitsSink sink() {
    return [this](const LogitsBlock& block) {
      for (size_t i = 0; i < block.tokens; ++i) {
        std::copy_n(block.values + i * block.stride, block.count,
                    values_.begin() + static_cast<ptrdiff_t>((block.token + i) * vocabulary_ + block.first));
      }
    };
  }
  std::span<const float> rows(size_t token, size_t tokens = 1) const {
    return std::span(values_).subspan(token * vocabulary_, tokens * vocabulary_);
  }

 private:
  size_t vocabulary_;
  std::vector<float> values_;
};

}  // namespace nibblecast::testing
