// model/synth_tensor.h - what `synth` makes of a tensor: a family says how its releases store it and which
// values keep activations near an rms of 1; pipeline/synth_content.h makes the bytes.
#pragma once

#include <cstdint>

#include "checkpoint/tensor.h"

namespace nibblecast {

struct Fill {
  enum class Kind : uint8_t {
    kUniform,      // BF16 or F32: center +- half_width
    kFp8Codes,     // E4M3, never NaN
    kFp8Scales,    // of their blocks, E8M0 or F32
    kMxfp4Codes,   // two E2M1 a byte
    kMxfp4Scales,  // of their blocks, E8M0; one block in 4,096 is zero, scale and codes
    kExperts,      // I64: ids below `experts`, each as often as any other
  };
  Kind kind = Kind::kUniform;
  double center = 0, half_width = 0;
  uint64_t fan_in = 1;  // of the linear that the scales belong to
  uint64_t experts = 0;
};

struct SynthTensor {
  Tensor stored;  // name, dtype, shape, size_bytes
  Fill fill;
  bool is_norm = false;  // or another vector that a checkpoint of headers alone must hold
};

}  // namespace nibblecast
