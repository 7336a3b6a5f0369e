#include "model/expert_lists.h"

#include <algorithm>

namespace nibblecast {

RoutingBuffers::RoutingBuffers(Arena& arena, uint64_t choices)
    : chosen(arena.take<int32_t>(choices)),
      weights(arena.take<float>(choices)),
      list_tokens(arena.take<uint32_t>(choices)),
      list_weights(arena.take<float>(choices)) {}

void ExpertLists::make(const RoutingBuffers& routing, size_t tokens, size_t top, size_t experts) {
  begin_.assign(experts + 1, 0);
  for (size_t i = 0; i < tokens * top; ++i) ++begin_[static_cast<size_t>(routing.chosen[i]) + 1];
  for (size_t expert = 1; expert < begin_.size(); ++expert) begin_[expert] += begin_[expert - 1];
  next_.assign(begin_.begin(), begin_.end() - 1);
  for (size_t i = 0; i < tokens * top; ++i) {
    const size_t at = next_[static_cast<size_t>(routing.chosen[i])]++;
    routing.list_tokens[at] = static_cast<uint32_t>(i / top);
    routing.list_weights[at] = routing.weights[i];
  }
}

std::vector<int64_t> ExpertLists::counts() const {
  std::vector<int64_t> counts;
  for (size_t expert = 0; expert + 1 < begin_.size(); ++expert)
    counts.push_back(static_cast<int64_t>(count(expert)));
  return counts;
}

}  // namespace nibblecast
