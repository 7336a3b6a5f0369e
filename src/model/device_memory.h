// model/device_memory.h - what a forward pass keeps in a device's memory. In every build, so that a plan
// knows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model/model.h"

namespace nibblecast {

struct CudaWorkload {
  uint64_t rows = 0, tokens = 0, longest_row = 0;
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

// As cuda_memory() of the model's forward pass has it: streams are resident where they fit; what is left goes
// to slots. If peak_bytes() is above the limit, it does not fit. `mlp_bytes`: of the largest MLP that streams
// by, as stored. T: bf16 or float.
template <class T>
CudaMemory forward_device_memory(const Model& model, const CudaWorkload& workload, uint64_t mlp_bytes,
                                 uint64_t limit_bytes);

// Small dense tensors of a layer in the form in which they go to the device, at most.
uint64_t device_vector_bytes(const Model& model, size_t element_bytes);

// kUnsupported: numbers of the model that the kernels for GPUs do not take.
void check_device_model(const Model& model);

}  // namespace nibblecast
