#include "model/deepseek_v4_cuda_experts.h"

#include <algorithm>
#include <cassert>
#include <span>
#include <utility>

namespace nibblecast {
namespace {

// Experts that the device has been given and not begun with. Enough to keep it busy until the next one is
// sent; few enough that launching never waits for the device, which would hold up the sending.
constexpr size_t kLaunchedExperts = 16;

// f(pointer, size in bytes) for the parts of w1, w2 and w3.
template <class F>
void for_pieces(StoredExpert& expert, const F& f) {
  for (StoredLinear* linear : {&expert.w1, &expert.w2, &expert.w3}) for_parts(*linear, f);
}

}  // namespace

template <class T>
CudaExperts<T>::CudaExperts(CudaForwardState<T>& state, CudaRouting& routing)
    : state_(state), routing_(routing), slots_(state.memory.slots) {}

template <class T>
void CudaExperts<T>::add(uint64_t expert, const StoredExpert& weights) {
  if (waiting_.size() == slots_.size()) compute_next();
  const size_t slot = next_slot_;
  next_slot_ = (next_slot_ + 1) % slots_.size();
  state_.copying.wait(slots_[slot].dequantized);
  Sent& sent = waiting_.emplace_back(expert, slot);
  state_.copy_clock.time(state_.copying, [&] {
    sent.weights = send(weights, state_.slot_block.data() + slot * state_.memory.slot_bytes);
  });
  slots_[slot].copied.record(state_.copying);
  if (!routing_.fetched()) return;
  while (!waiting_.empty() && !too_many_launched()) compute_next();
}

template <class T>
void CudaExperts<T>::compute() {
  while (!waiting_.empty()) compute_next();
}

// The expert's bytes into a slot, its views there: in one copy where they lie side by side.
template <class T>
StoredExpert CudaExperts<T>::send(const StoredExpert& weights, std::byte* slot) {
  StoredExpert sent = weights;
  std::vector<std::span<const std::byte>> pieces;
  for_pieces(sent, [&](auto& at, uint64_t size) {
    pieces.emplace_back(reinterpret_cast<const std::byte*>(at), size);
  });
  const auto begin_of = [](const auto& piece) { return piece.data(); };
  const auto end_of = [](const auto& piece) { return piece.data() + piece.size(); };
  const std::byte* const first = begin_of(*std::ranges::min_element(pieces, {}, begin_of));
  const std::byte* const last = end_of(*std::ranges::max_element(pieces, {}, end_of));
  // The first weight goes where accesses are widest; the others lie multiples of their rows from it.
  const uint64_t before = static_cast<uint64_t>(pieces[0].data() - first);
  const uint64_t shift = round_up(before, Arena::kAlignment) - before;
  const uint64_t size_bytes = static_cast<uint64_t>(last - first);
  const bool at_once = shift + size_bytes <= state_.memory.slot_bytes;
  if (at_once) state_.send(slot + shift, first, size_bytes);
  Arena arena(slot);
  size_t piece = 0;
  for_pieces(sent, [&](auto& at, uint64_t size) {
    const std::byte* const from = pieces[piece++].data();
    std::byte* const to = at_once ? slot + shift + (from - first) : arena.take<std::byte>(size);
    if (!at_once) state_.send(to, from, size);
    at = reinterpret_cast<std::decay_t<decltype(at)>>(to);
  });
  assert(arena.size_bytes() <= state_.memory.slot_bytes);
  return sent;
}

template <class T>
bool CudaExperts<T>::too_many_launched() {
  while (!launched_.empty() && slots_[launched_.front()].dequantized.done()) launched_.pop_front();
  return launched_.size() >= kLaunchedExperts;
}

template <class T>
void CudaExperts<T>::compute_next() {
  if (!routing_.ready()) routing_.make_lists(state_);
  const Sent& next = waiting_.front();
  Slot& slot = slots_[next.slot];
  state_.computing.wait(slot.copied);
  state_.compute_clock.time(state_.computing, [&] {
    run_expert(state_, next.expert, next.weights, routing_.begin(next.expert), routing_.count(next.expert),
               slot.dequantized);
  });
  launched_.push_back(next.slot);
  waiting_.pop_front();
}

template class CudaExperts<float>;
template class CudaExperts<bf16>;

}  // namespace nibblecast
