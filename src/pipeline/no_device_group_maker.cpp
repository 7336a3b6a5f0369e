// In builds without CUDA: no device makes anything.

#include "pipeline/group_maker.h"

namespace nibblecast {

DeviceMakeCost device_make_cost(const Plan&, uint64_t) { return {}; }

std::unique_ptr<Nvfp4Maker> make_device_maker(const Checkpoint&, const Plan&, const ForwardDevice&) {
  return nullptr;
}

}  // namespace nibblecast
