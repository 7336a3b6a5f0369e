#include "ops/indexer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/matmul.h"

namespace nibblecast {

template <class T>
void index_scores(const T* q, const float* weights, size_t queries, size_t heads, size_t dim, const T* keys,
                  size_t key_count, float* scores) {
  thread_local std::vector<float> dots;
  dots.resize(kTileRows * kIndexKeyStep);
  std::fill_n(scores, queries * key_count, 0.0f);
  for (size_t first_key = 0; first_key < key_count; first_key += kIndexKeyStep) {
    for (size_t begin = 0; begin < queries * heads; begin += kTileRows) {
      const size_t rows = std::min(kTileRows, queries * heads - begin);
      matmul_tile({.m = rows, .n = kIndexKeyStep, .k = dim}, q + begin * dim, dim, keys + first_key * dim,
                  dim, dots.data());
      for (size_t row = 0; row < rows; ++row) {
        float* to = scores + (begin + row) / heads * key_count + first_key;
        const float* dot = dots.data() + row * kIndexKeyStep;
        const float weight = weights[begin + row];
        for (size_t i = 0; i < kIndexKeyStep; ++i) to[i] += (dot[i] < 0 ? 0.0f : dot[i]) * weight;
      }
    }
  }
}

template <class T>
void index_scores_ref(const T* q, const float* weights, size_t queries, size_t heads, size_t dim,
                      const T* keys, size_t key_count, float* scores) {
  for (size_t query = 0; query < queries; ++query) {
    for (size_t key = 0; key < key_count; ++key) {
      double score = 0;
      for (size_t head = 0; head < heads; ++head) {
        double dot = 0;
        for (size_t i = 0; i < dim; ++i) {
          dot +=
              double{to_float(q[(query * heads + head) * dim + i])} * double{to_float(keys[key * dim + i])};
        }
        score += std::max(dot, 0.0) * double{weights[query * heads + head]};
      }
      scores[query * key_count + key] = static_cast<float>(score);
    }
  }
}

bool choose_top_k(const float* scores, size_t count, size_t top_k, uint64_t* chosen, size_t words) {
  std::fill_n(chosen, words, uint64_t{0});
  if (std::any_of(scores, scores + count, [](float score) { return std::isnan(score); })) return false;
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), uint32_t{0});
  const size_t kept = std::min(top_k, count);
  if (kept < count) {
    std::nth_element(
        order.begin(), order.begin() + static_cast<ptrdiff_t>(kept), order.end(),
        [&](uint32_t a, uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  }
  for (size_t i = 0; i < kept; ++i) chosen[order[i] / 64] |= uint64_t{1} << (order[i] % 64);
  return true;
}

template void index_scores(const float*, const float*, size_t, size_t, size_t, const float*, size_t, float*);
template void index_scores(const bf16*, const float*, size_t, size_t, size_t, const bf16*, size_t, float*);
template void index_scores_ref(const float*, const float*, size_t, size_t, size_t, const float*, size_t,
                               float*);
template void index_scores_ref(const bf16*, const float*, size_t, size_t, size_t, const bf16*, size_t,
                               float*);

}  // namespace nibblecast
