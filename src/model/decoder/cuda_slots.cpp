#include "model/decoder/cuda_slots.h"

#include <string>
#include <type_traits>

#include "base/arena.h"
#include "base/error.h"

namespace nibblecast {
namespace {

// MLPs that the device has been given and not begun with. Enough to keep it busy until the next one is sent;
// few enough that launching never waits for the device, which would hold up the sending.
constexpr size_t kLaunched = 16;

uint64_t size_in_slot(const StoredExpert& stored) {
  StoredExpert sent = stored;
  Arena counting;
  for (StoredLinear* linear : {&sent.w1, &sent.w2, &sent.w3})
    for_parts(*linear, [&](auto&, uint64_t size_bytes) { counting.take<std::byte>(size_bytes); });
  return counting.size_bytes();
}

}  // namespace

CudaSlots::CudaSlots(std::byte* memory, size_t slots, uint64_t slot_bytes, CudaStream& copying,
                     CudaStream& computing)
    : memory_(memory), slot_bytes_(slot_bytes), copying_(copying), computing_(computing), slots_(slots) {}

void CudaSlots::add(uint64_t mlp, const StoredExpert& stored, const Send& send,
                    const std::function<bool()>& ready, const Compute& compute) {
  if (waiting_.size() == slots_.size()) compute_next(compute);
  const size_t slot = next_slot_;
  next_slot_ = (next_slot_ + 1) % slots_.size();
  copying_.wait(slots_[slot].used);
  waiting_.push_back({mlp, slot, send_to(memory_ + slot * slot_bytes_, stored, send)});
  slots_[slot].copied.record(copying_);
  if (!ready()) return;
  while (!waiting_.empty() && !too_many_launched()) compute_next(compute);
}

void CudaSlots::finish(const Compute& compute) {
  while (!waiting_.empty()) compute_next(compute);
}

// Each part where accesses are widest.
StoredExpert CudaSlots::send_to(std::byte* slot, const StoredExpert& stored, const Send& send) const {
  if (size_in_slot(stored) > slot_bytes_) {
    throw Error(ErrorKind::kInternal, {}, "an MLP is larger than its place on the GPU",
                {.expected = std::to_string(slot_bytes_) + " bytes at most",
                 .found = std::to_string(size_in_slot(stored))});
  }
  StoredExpert sent = stored;
  Arena arena(slot);
  for (StoredLinear* linear : {&sent.w1, &sent.w2, &sent.w3}) {
    for_parts(*linear, [&](auto& at, uint64_t size_bytes) {
      std::byte* const to = arena.take<std::byte>(size_bytes);
      send(to, reinterpret_cast<const std::byte*>(at), size_bytes);
      at = reinterpret_cast<std::decay_t<decltype(at)>>(to);
    });
  }
  return sent;
}

bool CudaSlots::too_many_launched() {
  while (!launched_.empty() && slots_[launched_.front()].used.done()) launched_.pop_front();
  return launched_.size() >= kLaunched;
}

void CudaSlots::compute_next(const Compute& compute) {
  const Sent next = waiting_.front();
  computing_.wait(slots_[next.slot].copied);
  compute(next.mlp, next.weights);
  slots_[next.slot].used.record(computing_);
  launched_.push_back(next.slot);
  waiting_.pop_front();
}

}  // namespace nibblecast
