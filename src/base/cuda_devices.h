// base/cuda_devices.h - which CUDA devices there are, or why none can be used. In every build.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibblecast {

struct CudaDevice {
  int ordinal = 0;
  std::string name;
  int major = 0, minor = 0;   // compute capability
  uint64_t memory_bytes = 0;  // of the card
};

struct CudaDevices {
  std::vector<CudaDevice> usable;  // ascending ordinals; those that this build has code for
  std::string absence;             // why `usable` is empty, for people
};

// Never throws: a machine without a GPU, without a driver, or with one too old is an answer.
CudaDevices find_cuda_devices();

// What of the device's memory may be taken now: a little less than what is free, as other programs' kernels
// and our own take some without asking. 0 in builds without CUDA. Errors as of base/cuda.h.
uint64_t usable_cuda_memory(int ordinal);

}  // namespace nibblecast
