// ops/rope_table.h - the frequencies of rotary positions that a config's rope_parameters stand for.
//
// Every table begins with f[i] = theta^(-2i / dims), i = 0 .. dims/2 - 1. Powers are made in double of FP32
// exponents, all else is FP32, as transformers computes them: results are within a few FP32 units of its own.
// (transformers 5.23, modeling_rope_utils.py)
#pragma once

#include <cstddef>
#include <optional>
#include <variant>
#include <vector>

#include "ops/rope.h"

namespace nibblecast {

// "linear": f / factor.
struct LinearRope {
  double factor = 1;
  bool operator==(const LinearRope&) const = default;
};

// "dynamic": plain while a row is at most `length` long (max_position_embeddings). Beyond it frequencies
// depend on the row's own length, which no table for all rows can have.
struct DynamicRope {
  size_t length = 0;
  bool operator==(const DynamicRope&) const = default;
};

// "llama3": waves longer than original_length / low_factor are divided by factor, those shorter than
// original_length / high_factor stay, and between them both are blended.
struct Llama3Rope {
  double factor = 1, low_factor = 1, high_factor = 4, original_length = 0;
  bool operator==(const Llama3Rope&) const = default;
};

// "yarn", with what multiplies cosines and sines: attention_factor, or g(mscale) / g(mscale_all_dim) where
// both are given and not 0, or g(1); g(m) = 0.1 m ln(factor) + 1, and 1 where factor <= 1.
struct YarnRope {
  Yarn yarn;
  std::optional<double> attention_factor = {};
  double mscale = 0, mscale_all_dim = 0;
  bool operator==(const YarnRope&) const = default;
};

// g(mscale), for any of them.
double yarn_growth(double factor, double mscale);

struct RopeSpec {
  double theta = 10000;
  size_t dims = 0;  // channels of a head that turn; even
  RopePairing pairing = RopePairing::kHalves;
  RopePlace place = RopePlace::kFirst;
  std::variant<std::monostate, LinearRope, DynamicRope, Llama3Rope, YarnRope> scaling = {};
  bool operator==(const RopeSpec&) const = default;
};

struct RopeTable {
  std::vector<float> frequencies;
  float factor = 1;  // of cosines and sines
};

RopeTable rope_table(const RopeSpec& spec);

// For positions 0 .. positions - 1. kUnsupported where a dynamic table would have to depend on the row.
Rope make_rope(const RopeSpec& spec, size_t positions);

}  // namespace nibblecast
