// ops/rope_cuda.h - rotary positions on a device; same contract as ops/rope.h.
#pragma once

#include "base/cuda.h"
#include "ops/rope.h"

namespace nibblecast {

// Borrowed device memory; what kernels take. Only ops/heads_cuda.h takes halves; what turns the last channels
// of a row takes interleaved pairs.
struct RopeView {
  const Rope::Turn* turns = nullptr;  // [positions, pairs]
  uint32_t pairs = 0;
  RopePairing pairing = RopePairing::kInterleaved;
  RopePlace place = RopePlace::kFirst;  // of heads (ops/heads_cuda.h); of rows it is what the op says
  constexpr uint32_t dims() const { return 2 * pairs; }
};

// A Rope's table in device memory.
class DeviceRope {
 public:
  DeviceRope() = default;
  explicit DeviceRope(const Rope& rope)
      : turns_(to_device(rope.turns())), pairs_(rope.dims() / 2), pairing_(rope.pairing()) {}
  RopeView view(RopePlace place = RopePlace::kFirst) const {
    return {turns_.data(), static_cast<uint32_t>(pairs_), pairing_, place};
  }

 private:
  DeviceArray<Rope::Turn> turns_;
  size_t pairs_ = 0;
  RopePairing pairing_ = RopePairing::kInterleaved;
};

}  // namespace nibblecast
