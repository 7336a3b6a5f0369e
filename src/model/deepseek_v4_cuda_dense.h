// model/deepseek_v4_cuda_dense.h - a layer's dense weights on the device. Internal to
// model/deepseek_v4_cuda*.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/deepseek_v4_cuda_state.h"
#include "model/deepseek_v4_tensors.h"

namespace nibblecast {

// The dense tensors of a layer, as they come.
class CudaDenseTensors {
 public:
  // Of the next layer, in `block`.
  void expect(std::span<const Tensor> tensors, DeviceBuffer& block);
  // Where the bytes of `name` go on the device; null: they were kept here.
  std::byte* take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes);
  // Device memory for some, host memory for others.
  StoredTensors stored() const;

 private:
  struct Held {
    Tensor tensor;
    std::byte* device = nullptr;
    std::vector<std::byte> host;
  };
  std::unordered_map<std::string, Held> held_;
};

template <class T>
struct CudaLayerWeights {
  CudaAttentionWeights<T> attention;
  CudaFfnWeights<T> ffn;
};

// Brings a layer's weights, whose matrices are on the device, into the form in which kernels take them.
template <class T>
CudaLayerWeights<T> load_weights(CudaForwardState<T>& state, const AttentionWeights& attention,
                                 const FfnWeights& ffn);

}  // namespace nibblecast
