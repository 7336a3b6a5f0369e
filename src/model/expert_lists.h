// model/expert_lists.h - from every token's choice of experts, lists of tokens for each expert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/arena.h"

namespace nibblecast {

// Which experts tokens go to and with what weight, and which tokens come to an expert.
struct RoutingBuffers {
  int32_t* chosen = nullptr;        // [tokens, K]
  float* weights = nullptr;         // [tokens, K]
  uint32_t* list_tokens = nullptr;  // [tokens * K]: of expert 0, 1, ...; of each ascending
  float* list_weights = nullptr;    // [tokens * K]

  RoutingBuffers() = default;
  RoutingBuffers(Arena& arena, uint64_t choices);
};

class ExpertLists {
 public:
  // From routing.chosen and weights [tokens, top], in host memory, to its lists: tokens of an expert
  // ascending.
  void make(const RoutingBuffers& routing, size_t tokens, size_t top, size_t experts);

  // The expert's tokens are [begin, begin + count) of the lists.
  size_t begin(size_t expert) const { return begin_[expert]; }
  size_t count(size_t expert) const { return begin_[expert + 1] - begin_[expert]; }
  std::vector<int64_t> counts() const;  // of each expert

 private:
  std::vector<size_t> begin_, next_;
};

}  // namespace nibblecast
