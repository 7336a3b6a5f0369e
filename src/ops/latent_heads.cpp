#include "ops/latent_heads.h"

#include <algorithm>

#include "ops/round.h"

namespace nibblecast {

template <class T>
void spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, T* keys, T* values) {
  const size_t from = shape.expanded_width(), to = shape.key_width();
  round_rows(expanded, from, shape.heads, shape.key, keys, to);
  round_rows(expanded + shape.key, from, shape.heads, shape.value, values, shape.value);
  for (size_t head = 0; head < shape.heads; ++head)
    std::copy_n(shared, shape.shared, keys + head * to + shape.key);
}

template void spread_latent(const LatentHeads&, const float*, const float*, float*, float*);
template void spread_latent(const LatentHeads&, const float*, const bf16*, bf16*, bf16*);

}  // namespace nibblecast
