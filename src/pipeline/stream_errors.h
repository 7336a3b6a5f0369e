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

// What is watched within one layer: the source first, then the candidates, which are held against it as they
// come, in any order.
class LayerParts {
 public:
  LayerParts(size_t tokens, size_t candidates) : tokens_(tokens), candidates_(candidates) {}

  // For ForwardPass::watch(); of the source the values are kept.
  LayerWatch of_source();
  LayerWatch of_candidate(size_t index);

  void begin_layer();

  // Of a candidate; nothing where the passes do not show it.
  std::optional<double> mixer_error(size_t index) const { return error_of(index, LayerPart::kMixer); }
  std::optional<double> ffn_error(size_t index) const { return error_of(index, LayerPart::kFfn); }
  // The share of the source's choices of experts that the candidate does not make.
  std::optional<double> routing_moved(size_t index) const { return candidates_[index].moved; }

 private:
  struct SourceHalf {
    std::vector<float> values;  // [tokens, D]
    bool shown = false;
  };
  struct Candidate {
    std::optional<ErrorSums> halves[2];
    std::optional<double> moved;
  };
  std::optional<double> error_of(size_t index, LayerPart part) const;
  std::optional<double> moved_routing(std::span<const int32_t> experts) const;

  const size_t tokens_;
  SourceHalf source_[2];
  std::vector<int32_t> experts_;  // the source's
  std::vector<Candidate> candidates_;
};

}  // namespace nibblecast
