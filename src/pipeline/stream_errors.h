// pipeline/stream_errors.h - how far a candidate's values within the model are from the source's: the streams
// between two layers, what a layer's two halves give, and the routing.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/forward_pass.h"
#include "plan/options.h"

namespace nibblecast {

// Sums over values a and b, in double.
struct ErrorSums {
  double a2 = 0, b2 = 0, ab = 0, d2 = 0;  // of a^2, b^2, a b, (a - b)^2

  void merge(const ErrorSums& other) { a2 += other.a2, b2 += other.b2, ab += other.ab, d2 += other.d2; }
  double error() const { return d2 == 0 ? 0 : std::sqrt(d2 / a2); }  // ||a - b|| / ||a||
  double cosine() const { return d2 == 0 ? 1 : ab / std::sqrt(a2 * b2); }
};
ErrorSums error_sums(std::span<const float> a, std::span<const float> b);

// Of two passes between the same layers, in pieces of fixed size. `dtype`: of both.
ErrorSums stream_errors(const ForwardPass& a, const ForwardPass& b, ComputeDtype dtype);

// What is watched within one layer: the source first, then each candidate, which is held against it as it
// comes.
class LayerParts {
 public:
  explicit LayerParts(size_t tokens) : tokens_(tokens) {}

  // For ForwardPass::watch(); of the source the values are kept.
  LayerWatch of_source();
  LayerWatch of_candidate();

  void begin_source();     // of the next layer
  void begin_candidate();  // of the next one, in the same layer

  // Of the candidate begun last; nothing where the passes do not show it.
  std::optional<double> mixer_error() const { return error_of(LayerPart::kMixer); }
  std::optional<double> ffn_error() const { return error_of(LayerPart::kFfn); }
  // The share of the source's choices of experts that the candidate does not make.
  std::optional<double> routing_moved() const { return moved_; }

 private:
  struct Half {
    std::vector<float> values;  // the source's, [tokens, D]
    bool shown = false;         // the source's, and the candidate's
    bool held = false;
    ErrorSums sums;
  };
  Half& half(LayerPart part) { return halves_[static_cast<size_t>(part)]; }
  std::optional<double> error_of(LayerPart part) const;
  void compare_routing(std::span<const int32_t> experts);

  const size_t tokens_;
  Half halves_[2];
  std::vector<int32_t> experts_;  // the source's
  std::optional<double> moved_;
};

}  // namespace nibblecast
