// model/families/deepseek_v4/cuda_dense.h - a layer's dense weights on the device. Internal to
// model/deepseek_v4_cuda*.cpp.
#pragma once

#include "model/families/deepseek_v4/cuda_state.h"
#include "model/families/deepseek_v4/tensors.h"

namespace nibblecast {

// Weights that products take stay on the device as stored; small tensors are looked at by the host first.
bool stays_on_device(const Tensor& tensor);

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
