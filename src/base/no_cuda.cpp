#include "base/cuda_devices.h"

namespace nibblecast {

CudaDevices find_cuda_devices() { return {.usable = {}, .absence = "this program was built without CUDA"}; }

uint64_t usable_cuda_memory(int) { return 0; }

}  // namespace nibblecast
