#include "model/cuda_memory.h"

#include <algorithm>

#include "base/arena.h"

namespace nibblecast {
namespace {

// CUDA's context, kernels and cuBLASLt's code: measured 0.5 GiB on an H100, and room.
constexpr uint64_t kContextBytes = uint64_t{800} << 20;
constexpr uint64_t kProductsBytes = uint64_t{32} << 20;  // CudaProducts::kWorkspaceBytes
// So many that copies need not stop while attention computes: 9 GB of V4-Pro's experts.
constexpr uint64_t kLeastSlots = 2, kMostSlots = 256;

}  // namespace

CudaMemory fit_cuda_memory(const CudaDemand& demand, uint64_t limit_bytes) {
  CudaMemory memory{.context_bytes = kContextBytes + kProductsBytes,
                    .streams_bytes = demand.streams_bytes,
                    .slots = kLeastSlots};
  memory.slot_bytes = round_up(demand.expert_bytes, Arena::kAlignment) + 9 * Arena::kAlignment;
  const uint64_t slots = kLeastSlots * memory.slot_bytes;
  const uint64_t resident = memory.context_bytes + demand.fixed(true) + memory.streams_bytes + slots;
  memory.least_bytes = resident;
  if (demand.may_leave)
    memory.least_bytes = std::min(resident, memory.context_bytes + demand.fixed(false) + slots);
  memory.streams_resident = !demand.may_leave || resident <= limit_bytes;
  memory.fixed_bytes = demand.fixed(memory.streams_resident);
  const uint64_t most = std::clamp<uint64_t>(demand.most_slots, kLeastSlots, kMostSlots);
  if (memory.peak_bytes() < limit_bytes) {
    memory.slots = std::min(most, kLeastSlots + (limit_bytes - memory.peak_bytes()) / memory.slot_bytes);
  }
  return memory;
}

}  // namespace nibblecast
