#include "base/cuda_owners.h"

#include <utility>

#include "base/error.h"

namespace nibblecast {

// What is being copied must not be freed: on the way out of an error too.
CudaOwners::~CudaOwners() {
  for (Held& held : held_) {
    try {
      held.copied.synchronize();
    } catch (const Error&) {
    }
  }
}

void CudaOwners::add(CudaStreamHandle stream, const Owner& owner) {
  const bool same = !held_.empty() && owner != nullptr && held_.back().owner == owner;
  if (!same) held_.push_back({take_event(), owner});
  held_.back().copied.record(stream);
  const size_t most = owner == nullptr ? 0 : most_;
  while (!held_.empty() && (held_.size() > most || held_.front().copied.done())) release();
}

CudaEvent CudaOwners::take_event() {
  if (idle_.empty()) return CudaEvent();
  CudaEvent event = std::move(idle_.back());
  idle_.pop_back();
  return event;
}

void CudaOwners::release() {
  held_.front().copied.synchronize();
  idle_.push_back(std::move(held_.front().copied));
  held_.pop_front();
}

}  // namespace nibblecast
