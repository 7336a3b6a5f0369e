#include "ops/heads.h"

#include <algorithm>
#include <vector>

#include "ops/round.h"

namespace nibblecast {
namespace {

// One head, rounded only where its norm says so.
template <class From, class T>
void norm_head(const From* x, size_t width, const HeadNorm* norm, T* rounded, float* y) {
  if (norm == nullptr) {
    widen(x, width, y);
  } else if (norm->use == NormWeight::kRoundedTimes) {
    rmsnorm(x, width, norm->weight, norm->use, norm->eps, rounded);
    widen(rounded, width, y);
  } else {
    rmsnorm(x, width, norm->weight, norm->use, norm->eps, y);
  }
}

}  // namespace

template <class From, class T>
void norm_and_turn_heads(const From* x, size_t heads, size_t width, const HeadNorm* norm, const Rope* rope,
                         size_t position, T* y, RopePlace place) {
  thread_local std::vector<float> own;
  own.resize(std::max(own.size(), width));
  const size_t first = rope == nullptr || place == RopePlace::kFirst ? 0 : width - rope->dims();
  for (size_t head = 0; head < heads; ++head, x += width, y += width) {
    norm_head(x, width, norm, y, own.data());
    if (rope != nullptr) rope->apply(own.data() + first, position);
    round_rows(own.data(), width, 1, width, y, width);
  }
}

template void norm_and_turn_heads(const float*, size_t, size_t, const HeadNorm*, const Rope*, size_t, float*,
                                  RopePlace);
template void norm_and_turn_heads(const float*, size_t, size_t, const HeadNorm*, const Rope*, size_t, bf16*,
                                  RopePlace);
template void norm_and_turn_heads(const bf16*, size_t, size_t, const HeadNorm*, const Rope*, size_t, float*,
                                  RopePlace);
template void norm_and_turn_heads(const bf16*, size_t, size_t, const HeadNorm*, const Rope*, size_t, bf16*,
                                  RopePlace);

}  // namespace nibblecast
