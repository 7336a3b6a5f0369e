#include "cuda_forward.h"
#include "forward_testing.h"

namespace nibblecast {
namespace {
using Device = testing::CudaDevicePass;
}
}  // namespace nibblecast
#define SKIP_WITHOUT_DEVICE() SKIP_WITHOUT_CUDA()
#include "forward_oracle_suite.h"
