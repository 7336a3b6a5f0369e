// model/cuda_memory.h - how a forward pass divides a device's memory (model/device_memory.h), whatever the
// model.
#pragma once

#include <cstdint>
#include <functional>

#include "model/device_memory.h"

namespace nibblecast {

// Dense tensors of a layer: those that stay as stored on the device, all others (small) as FP32 or I64, and
// weights in T.
struct CudaLayerBytes {
  uint64_t stored = 0, vectors = 0, weights = 0;
};

// `fixed`: of all buffers but streams and slots, for streams that are resident or not; with may_leave false
// they always are. Streams are resident where they fit; what is left goes to slots, up to `most` and up to as
// many as arrive while attention computes. If peak_bytes() is above the limit, it does not fit.
struct CudaDemand {
  uint64_t expert_bytes = 0;  // of the largest MLP as stored
  uint64_t most_slots = 0;    // that are of use
  uint64_t streams_bytes = 0;
  bool may_leave = true;
  std::function<uint64_t(bool resident)> fixed = {};
};
CudaMemory fit_cuda_memory(const CudaDemand& demand, uint64_t limit_bytes);

}  // namespace nibblecast
