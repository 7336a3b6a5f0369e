// ops/rope.h - rotary positions on interleaved pairs (x[2i], x[2i + 1]): rotation by position * frequency[i].
// Frequencies, angles, cosines and sines are FP32 numbers; the rotation is FP32, rounded once to T.
// (DeepSeek-V4 inference/model.py, precompute_freqs_cis and apply_rotary_emb; no mscale.)
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "formats/bf16.h"

namespace nibblecast {

struct Yarn {
  double factor = 1, beta_fast = 32, beta_slow = 1;
  double original_length = 0;
};

// theta^(-2i / dims), i = 0 .. dims/2 - 1; with YaRN blended towards that divided by `factor`:
// between the pairs that turn beta_fast and beta_slow times over original_length, linearly.
std::vector<float> rope_frequencies(double theta, size_t dims, const std::optional<Yarn>& yarn);

class Rope {
 public:
  Rope() = default;
  // For positions 0 .. positions - 1.
  Rope(const std::vector<float>& frequencies, size_t positions);

  // Of one pair at one position.
  struct Turn {
    float cos, sin;
  };
  std::span<const Turn> turns() const { return turns_; }  // [positions, pairs]

  size_t dims() const { return 2 * pairs_; }
  // Rotates x [dims] in place.
  template <class T>
  void apply(T* x, size_t position) const;
  // By the negative angle.
  template <class T>
  void apply_inverse(T* x, size_t position) const;

 private:
  template <class T>
  void rotate(T* x, size_t position, float direction) const;

  size_t pairs_ = 0;
  std::vector<Turn> turns_;  // [positions, pairs]
};

}  // namespace nibblecast
