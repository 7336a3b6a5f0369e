// ops/heads.h - the heads of queries or keys between their projection and attention: a norm over each head,
// then RoPE on its first channels, or on its last.
//
// FP32 throughout, one rounding at the end; only a norm with NormWeight::kRoundedTimes rounds as it does
// alone (ops/rmsnorm.h), before the turn. (transformers 5.23: q_norm, k_norm and apply_rotary_pos_emb of
// models/qwen3 and, partial, models/glm4_moe; the last ones: models/deepseek_v3)
#pragma once

#include <cstddef>

#include "ops/rmsnorm.h"
#include "ops/rope.h"

namespace nibblecast {

struct HeadNorm {
  const float* weight = nullptr;  // [width], the same for all heads; null: no weight
  NormWeight use = NormWeight::kTimes;
  float eps = 0;
};

// One token's heads: x [heads, width] -> y [heads, width]; y may be x where From is T. `norm` and `rope` may
// be null. Of a head rope->dims() channels are turned, those that `place` says.
template <class From, class T>
void norm_and_turn_heads(const From* x, size_t heads, size_t width, const HeadNorm* norm, const Rope* rope,
                         size_t position, T* y, RopePlace place = RopePlace::kFirst);

}  // namespace nibblecast
