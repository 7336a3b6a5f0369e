// model/cuda_memory.h - how a forward pass divides a device's memory, whatever the model. In every build, so
// that a plan knows.
#pragma once

#include <cstdint>
#include <functional>

namespace nibblecast {

struct CudaWorkload {
  uint64_t rows = 0, tokens = 0, longest_row = 0;
};

// Dense tensors of a layer: those that stay as stored on the device, all others (small) as FP32 or I64, and
// weights in T.
struct CudaLayerBytes {
  uint64_t stored = 0, vectors = 0, weights = 0;
};

struct CudaMemory {
  uint64_t context_bytes = 0;  // of CUDA and its libraries
  uint64_t fixed_bytes = 0;    // all buffers but the next two
  uint64_t streams_bytes = 0;  // residual streams
  bool streams_resident = false;
  uint64_t slot_bytes = 0;  // an expert as stored, on its way to being used
  uint64_t slots = 0;
  uint64_t least_bytes = 0;  // with which it works: two slots, and streams in host memory if that saves any

  uint64_t peak_bytes() const {
    return context_bytes + fixed_bytes + (streams_resident ? streams_bytes : 0) + slots * slot_bytes;
  }
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
