// model/deepseek_v4_cuda_experts.h - routed experts on their way through the device. Internal to
// model/deepseek_v4_cuda*.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "model/deepseek_v4_cuda_routing.h"
#include "model/deepseek_v4_cuda_state.h"

namespace nibblecast {

// An expert is sent to a slot of device memory as it is stored, and computed when its layer's routing is
// known: until then as many wait as there are slots. Experts are computed in the order in which they are
// sent.
template <class T>
class CudaExperts {
 public:
  CudaExperts(CudaForwardState<T>& state, CudaRouting& routing);

  // Sends an expert, on the stream of copies, and has some of those that wait computed.
  void add(uint64_t expert, const StoredExpert& weights);
  // Has all of them computed.
  void compute();

 private:
  struct Sent {
    uint64_t expert = 0;
    size_t slot = 0;
    StoredExpert weights = {};  // in the slot
  };
  struct Slot {
    CudaEvent copied, dequantized;
  };

  StoredExpert send(const StoredExpert& weights, std::byte* slot);
  bool too_many_launched();
  void compute_next();

  CudaForwardState<T>& state_;
  CudaRouting& routing_;
  std::vector<Slot> slots_;
  size_t next_slot_ = 0;
  std::deque<Sent> waiting_;
  std::deque<size_t> launched_;  // slots whose expert may not have been dequantized yet
};

}  // namespace nibblecast
