// pipeline/synth_content.h - the random bytes of one tensor, each a pure function of seed, name and position:
// any thread can make any part of any tensor.
//
// Magnitudes follow from the fan-in, so that activations keep an rms near 1 at any width; E4M3 codes are
// never NaN; MXFP4 block scales span four powers of two, well inside the lossless cast's window, but for
// one block in 4,096, whose scale byte and nibbles are all zero; F32 scales are no powers of two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "model/synth_tensor.h"

namespace nibblecast {

class SynthContent {
 public:
  SynthContent(const SynthTensor& tensor, uint64_t seed);

  // Bytes [begin, begin + to.size()) of the tensor.
  void fill(uint64_t begin, std::span<std::byte> to) const;

 private:
  void fill_values(uint64_t begin, std::span<std::byte> to) const;
  void clear_zero_blocks(uint64_t begin, std::span<std::byte> to) const;

  Fill::Kind kind_;
  Dtype dtype_;
  uint64_t key_ = 0;
  float center_ = 0, half_width_ = 0;  // values: uniform in center +- half width
  uint8_t least_scale_ = 0;            // E8M0 scales: this byte to this + 3
  uint64_t zero_block_key_ = 0;        // MXFP4: which blocks are zero
  uint64_t zero_block_bytes_ = 0;      // of a block in this tensor; 0: no block is
  uint64_t experts_ = 0;               // ids
};

}  // namespace nibblecast
