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

#include "model/deepseek_v4_tensors.h"
#include "model/model_table.h"

namespace nibblecast {

class SynthContent {
 public:
  // `stored` is one of release_tensors(config, tensor).
  SynthContent(const DeepseekV4Config& config, const ModelTensor& tensor, const Tensor& stored,
               uint64_t seed);
  // BF16 or F32 of a decoder: a module's weight, or a tensor that is none.
  // `is_head`: it is multiplied with what leaves the last layer, be it the embedding too.
  SynthContent(const WeightModule& module, bool is_head, const Tensor& stored, uint64_t seed);
  // `norm`: what a layer's norms have about as weight.
  SynthContent(const PlainTensor& plain, double norm, const Tensor& stored, uint64_t seed);

  // Bytes [begin, begin + to.size()) of the tensor.
  void fill(uint64_t begin, std::span<std::byte> to) const;

 private:
  void set_uniform(Dtype dtype, double center, double half_width);
  void clear_zero_blocks(uint64_t begin, std::span<std::byte> to) const;

  enum class Kind { kBF16, kF32, kE4M3, kE2M1, kE8M0, kRouting };

  Kind kind_ = Kind::kBF16;
  uint64_t key_ = 0;
  float center_ = 0, half_width_ = 0;  // kBF16, kF32: uniform in center +- half width
  uint8_t least_scale_ = 0;            // kE8M0: this byte to this + 3
  uint64_t zero_block_key_ = 0;        // kE2M1, kE8M0: which blocks are zero
  uint64_t zero_block_bytes_ = 0;      // of a block in this tensor; 0: no block is
  uint64_t experts_ = 0;               // kRouting
};

}  // namespace nibblecast
