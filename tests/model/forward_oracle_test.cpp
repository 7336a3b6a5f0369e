#include "forward_testing.h"

namespace nibblecast {
namespace {
using Device = testing::CpuPass;
}
}  // namespace nibblecast
#define SKIP_WITHOUT_DEVICE() static_assert(true)
#include "forward_oracle_suite.h"
