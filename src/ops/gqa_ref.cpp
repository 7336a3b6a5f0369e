#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/gqa.h"

namespace nibblecast {
namespace {

template <class T>
double dot(const T* a, const T* b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += double{to_float(a[i])} * double{to_float(b[i])};
  return sum;
}

}  // namespace

template <class T>
void gqa_ref(const GqaShape& shape, const T* q, const T* keys, const T* values, size_t length,
             const float* sinks, T* out) {
  std::vector<double> logits(length), sums(shape.value_width);
  for (size_t query = 0; query < length; ++query) {
    const size_t first = shape.window == 0 || query < shape.window ? 0 : query + 1 - shape.window;
    for (size_t head = 0; head < shape.heads; ++head) {
      const T* own = q + (query * shape.heads + head) * shape.key_width;
      const size_t kv_head = head / shape.group();
      const double sink = sinks == nullptr ? -std::numeric_limits<double>::infinity() : double{sinks[head]};
      double largest = sink;
      for (size_t key = first; key <= query; ++key) {
        const T* other = keys + (key * shape.kv_heads + kv_head) * shape.key_width;
        logits[key] = double{shape.scale} * dot(own, other, shape.key_width);
        largest = std::max(largest, logits[key]);
      }
      double total = std::exp(sink - largest);
      std::fill(sums.begin(), sums.end(), 0.0);
      for (size_t key = first; key <= query; ++key) {
        const double p = std::exp(logits[key] - largest);
        const T* value = values + (key * shape.kv_heads + kv_head) * shape.value_width;
        total += p;
        for (size_t i = 0; i < shape.value_width; ++i) sums[i] += p * double{to_float(value[i])};
      }
      T* to = out + (query * shape.heads + head) * shape.value_width;
      for (size_t i = 0; i < shape.value_width; ++i) {
        to[i] = from_float<T>(static_cast<float>(sums[i] / total));
      }
    }
  }
}

template void gqa_ref(const GqaShape&, const float*, const float*, const float*, size_t, const float*,
                      float*);
template void gqa_ref(const GqaShape&, const bf16*, const bf16*, const bf16*, size_t, const float*, bf16*);

}  // namespace nibblecast
