// pipeline/stream_errors.h - how far a candidate's values within the model are from the source's: the streams
// between two layers, what a layer's two halves give, and the routing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/forward_pass.h"
#include "pipeline/meeting_place.h"
#include "plan/options.h"

namespace nibblecast {

// Of the streams [tokens, ...] of two passes between the same layers, piece by piece.
class StreamErrors {
 public:
  StreamErrors(MeetingPlace& place, size_t tokens, ComputeDtype dtype)
      : place_(place), tokens_(tokens), dtype_(dtype) {}
  ErrorSums between(const ForwardPass& a, const ForwardPass& b);

 private:
  void allocate(uint64_t streams_bytes);

  MeetingPlace& place_;
  const size_t tokens_;
  const ComputeDtype dtype_;
  size_t token_bytes_ = 0, piece_tokens_ = 0;
  std::shared_ptr<std::byte> a_, b_, sums_;
};

// What is watched within one layer: the source first, then the candidates, which are held against it as they
// come, in any order.
class LayerParts {
 public:
  LayerParts(MeetingPlace& place, size_t tokens, size_t candidates)
      : place_(place), tokens_(tokens), candidates_(candidates) {}

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
    std::shared_ptr<std::byte> values;  // [tokens, D], as they were shown
    size_t token_bytes = 0;             // of each
    bool shown = false;
  };
  struct Candidate {
    std::shared_ptr<std::byte> sums[2] = {};  // ErrorSums [tokens] of each half
    bool held[2] = {};
    std::optional<double> moved = {};
  };
  void keep(LayerPart part, size_t first, size_t count, size_t width, const ShownValues& values);
  void meet(Candidate& candidate, LayerPart part, size_t first, size_t count, size_t width,
            const ShownValues& values);
  std::optional<double> error_of(size_t index, LayerPart part) const;
  std::optional<double> moved_routing(std::span<const int32_t> experts) const;

  MeetingPlace& place_;
  const size_t tokens_;
  SourceHalf source_[2];
  std::vector<int32_t> experts_;  // the source's
  std::vector<Candidate> candidates_;
};

}  // namespace nibblecast
