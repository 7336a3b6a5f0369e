// model/families/deepseek_v4/cuda_routing.h - which tokens of a layer go to which expert. Internal to
// model/deepseek_v4_cuda*.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "model/families/deepseek_v4/cuda_state.h"
#include "model/expert_lists.h"

namespace nibblecast {

// From every token's choice, made on the device, lists of tokens ascending for each expert, made by the host.
class CudaRouting {
 public:
  CudaRouting(size_t tokens, size_t experts, size_t top);

  // Begins to bring the choices to the host.
  template <class T>
  void fetch(CudaForwardState<T>& state);
  // Whether make_lists() would not wait, or was called since fetch().
  bool fetched() const { return ready_ || fetched_.done(); }
  bool ready() const { return ready_; }
  // Errors: a router score of NaN, an expert that does not exist.
  template <class T>
  void make_lists(CudaForwardState<T>& state);

  // After make_lists(): tokens of `expert` are [begin, begin + count) of the device's lists.
  size_t begin(size_t expert) const { return lists_.begin(expert); }
  size_t count(size_t expert) const { return lists_.count(expert); }
  std::vector<int64_t> counts() const { return lists_.counts(); }
  std::span<const int32_t> chosen() const { return {host_.chosen, tokens_ * top_}; }

 private:
  void lay_out(Arena& arena);
  template <class T>
  void check_faults(const CudaForwardState<T>& state) const;

  const size_t tokens_, experts_, top_;
  ExpertLists lists_;
  Buffer block_;  // pinned
  RoutingBuffers host_;
  RouterFaults* faults_ = nullptr;
  CudaEvent fetched_;
  bool ready_ = false;
};

}  // namespace nibblecast
