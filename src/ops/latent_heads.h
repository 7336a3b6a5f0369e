// ops/latent_heads.h - heads of keys and values of multi-head latent attention, from what a token's latent
// expands to and the channels with its position, which all heads share:
//
//   key[h] = [expanded[h][0 .. key) , shared],  value[h] = expanded[h][key .. key + value)
//
// Each number is rounded once. (transformers 5.23, expand_kv of models/deepseek_v3)
#pragma once

#include <cstddef>

#include "formats/bf16.h"

namespace nibblecast {

struct LatentHeads {
  size_t heads = 0;
  size_t key = 0;     // channels of a head's key without a position
  size_t shared = 0;  // channels with it
  size_t value = 0;   // channels of a head's value

  bool operator==(const LatentHeads&) const = default;
  constexpr size_t key_width() const { return key + shared; }
  constexpr size_t expanded_width() const { return key + value; }
};

// Of one token: expanded [heads, key + value], shared [shared] -> keys [heads, key + shared],
// values [heads, value].
template <class T>
void spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, T* keys, T* values);

}  // namespace nibblecast
