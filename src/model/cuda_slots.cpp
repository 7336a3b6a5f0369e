#include "model/cuda_slots.h"

#include <algorithm>
#include <string>
#include <type_traits>

#include "base/arena.h"
#include "base/error.h"

namespace nibblecast {
namespace {

// MLPs that the device has been given and not begun with. Enough to keep it busy until the next one is sent;
// few enough that launching never waits for the device, which would hold up the sending.
constexpr size_t kLaunched = 16;

// f(pointer, size in bytes) for the parts of w1, w2 and w3.
template <class F>
void for_pieces(StoredExpert& mlp, const F& f) {
  for (StoredLinear* linear : {&mlp.w1, &mlp.w2, &mlp.w3}) {
    if (rows_of(*linear) != 0) for_parts(*linear, f);
  }
}

// From the first byte of an MLP to its last.
struct Extent {
  const std::byte* first = nullptr;
  uint64_t size_bytes = 0;
  uint64_t shift = 0;  // in its slot
};

// The first weight goes where accesses are widest; the others lie multiples of their rows from it.
Extent extent_of(StoredExpert& mlp) {
  const std::byte *weight = nullptr, *first = nullptr, *last = nullptr;
  for_pieces(mlp, [&](auto& at, uint64_t size_bytes) {
    const std::byte* const begin = reinterpret_cast<const std::byte*>(at);
    if (weight == nullptr) weight = first = begin;
    first = std::min(first, begin);
    last = std::max(last, begin + size_bytes);
  });
  const uint64_t before = static_cast<uint64_t>(weight - first);
  return {first, static_cast<uint64_t>(last - first), round_up(before, Arena::kAlignment) - before};
}

void check_room(uint64_t size_bytes, uint64_t slot_bytes) {
  if (size_bytes <= slot_bytes) return;
  throw Error(
      ErrorKind::kInternal, {}, "an MLP is larger than its place on the GPU",
      {.expected = std::to_string(slot_bytes) + " bytes at most", .found = std::to_string(size_bytes)});
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

// The MLP's bytes into a slot, its views there: in one copy where they lie side by side.
StoredExpert CudaSlots::send_to(std::byte* slot, const StoredExpert& stored, const Send& send) const {
  StoredExpert sent = stored;
  const Extent all = extent_of(sent);
  const bool at_once = all.shift + all.size_bytes <= slot_bytes_;
  if (at_once) send(slot + all.shift, all.first, all.size_bytes);
  Arena arena(slot);
  for_pieces(sent, [&](auto& at, uint64_t size_bytes) {
    const std::byte* const from = reinterpret_cast<const std::byte*>(at);
    std::byte* const to = at_once ? slot + all.shift + (from - all.first) : arena.take<std::byte>(size_bytes);
    if (!at_once) {
      check_room(arena.size_bytes(), slot_bytes_);
      send(to, from, size_bytes);
    }
    at = reinterpret_cast<std::decay_t<decltype(at)>>(to);
  });
  return sent;
}

bool CudaSlots::too_many_launched() {
  while (!launched_.empty() && slots_[launched_.front()].used.done()) launched_.pop_front();
  return launched_.size() >= kLaunched;
}

void CudaSlots::compute_next(const Compute& compute) {
  const Sent next = waiting_.front();
  computing_.wait(slots_[next.slot].copied);
  compute(next.mlp, next.weights, slots_[next.slot].used);
  launched_.push_back(next.slot);
  waiting_.pop_front();
}

}  // namespace nibblecast
