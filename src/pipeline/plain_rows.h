// pipeline/plain_rows.h - a plain weight on its way into a forward pass that takes it in BF16 or in the type
// that it computes in.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/tensor.h"
#include "plan/options.h"

namespace nibblecast {

// Hands on BF16 as it comes, and F16 and F32 in `compute`, each value rounded at most once. Bytes are cut
// anywhere; what is cut within a value waits for its other part.
class PlainRows {
 public:
  using Owner = std::shared_ptr<const void>;
  // The next bytes, in order; whoever wants them later keeps the owner.
  using Sink = std::function<void(std::span<const std::byte> bytes, const Owner& owner)>;

  PlainRows(Dtype stored, ComputeDtype compute) : stored_(stored), compute_(compute) {}

  bool is_wide() const { return stored_ != Dtype::kBF16 && compute_ == ComputeDtype::kF32; }
  void add(std::span<const std::byte> bytes, const Owner& owner, const Sink& sink);

 private:
  void convert(std::span<const std::byte> values, const Sink& sink) const;

  Dtype stored_;
  ComputeDtype compute_;
  std::vector<std::byte> cut_;  // begin of a value
};

}  // namespace nibblecast
