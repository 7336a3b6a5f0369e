// ops/rope.h - rotary positions on pairs of channels: rotation by position * frequency[i]. Frequencies,
// angles, cosines and sines are FP32 numbers; the rotation is FP32, rounded once to T.
// (DeepSeek-V4 inference/model.py, precompute_freqs_cis and apply_rotary_emb; no mscale. transformers 5.23,
// apply_rotary_pos_emb and apply_rotary_pos_emb_interleave)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {

struct Yarn {
  double factor = 1, beta_fast = 32, beta_slow = 1;
  double original_length = 0;
  bool truncate = true;  // to whole pairs
  bool operator==(const Yarn&) const = default;
};

// theta^(-2i / dims), i = 0 .. dims/2 - 1; with YaRN blended towards that divided by `factor`:
// between the pairs that turn beta_fast and beta_slow times over original_length, linearly.
std::vector<float> rope_frequencies(double theta, size_t dims, const std::optional<Yarn>& yarn);

// That blend, of theta^(-2i / dims).
void blend_yarn(const Yarn& yarn, double theta, std::vector<float>& frequencies);

enum class RopePairing : uint8_t {
  kInterleaved,  // (x[2i], x[2i + 1])
  kHalves,       // (x[i], x[i + dims / 2])
};

// Which channels of a head turn.
enum class RopePlace : uint8_t { kFirst, kLast };

class Rope {
 public:
  Rope() = default;
  // For positions 0 .. positions - 1. `factor` multiplies cosines and sines: what is turned grows by it.
  Rope(const std::vector<float>& frequencies, size_t positions,
       RopePairing pairing = RopePairing::kInterleaved, float factor = 1);

  // Of one pair at one position.
  struct Turn {
    float cos, sin;
  };
  std::span<const Turn> turns() const { return turns_; }  // [positions, pairs]

  size_t dims() const { return 2 * pairs_; }
  RopePairing pairing() const { return pairing_; }
  // Rotates x [dims] in place.
  template <class T>
  void apply(T* x, size_t position) const;
  // By the negative angle; undoes apply() where the factor is 1.
  template <class T>
  void apply_inverse(T* x, size_t position) const;

 private:
  template <class T>
  void rotate(T* x, size_t position, float direction) const;

  size_t pairs_ = 0;
  RopePairing pairing_ = RopePairing::kInterleaved;
  std::vector<Turn> turns_;  // [positions, pairs]
};

}  // namespace nibblecast
