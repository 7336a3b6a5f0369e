// model/families/deepseek_v4/cuda_findings.h - what kernels found out about a layer, on the host. Internal to
// model/deepseek_v4_cuda*.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/activation_amax.h"
#include "model/families/deepseek_v4/cuda_routing.h"
#include "model/families/deepseek_v4/cuda_state.h"

namespace nibblecast {

class CudaLayerFindings {
 public:
  explicit CudaLayerFindings(const CudaFindings& at);

  // Begins to bring the findings of a layer, whose last kernel was launched, to the host.
  template <class T>
  void fetch(CudaForwardState<T>& state, const CudaRouting& routing);
  bool fetched() const { return fetched_.done(); }
  // Of the layer of fetch(); waits for it. Errors: what is not finite, named.
  LayerAmax layer_amax() const;

 private:
  std::string module(const std::string& name) const;
  float finding(size_t index) const;
  void record_experts(LayerAmax& amax) const;

  const CudaFindings at_;
  Buffer block_;  // pinned
  const uint32_t* const bits_;
  CudaEvent fetched_;
  uint64_t layer_ = 0;
  std::vector<int64_t> tokens_ = {};  // of each expert
};

}  // namespace nibblecast
