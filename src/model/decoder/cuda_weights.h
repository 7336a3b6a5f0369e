// model/decoder/cuda_weights.h - the dense weights of the layer in progress on a CUDA device. Internal to
// model/decoder/*cuda*.cpp.
#pragma once

#include <span>
#include <vector>

#include "base/arena.h"
#include "base/cuda.h"
#include "model/cuda_memory.h"
#include "model/decoder/cuda_profile.h"
#include "model/dense_tensors.h"
#include "model/model_table.h"

namespace nibblecast {

// A weight in device memory, [rows, cols].
template <class T>
struct CudaMatrix {
  const T* values = nullptr;
  size_t rows = 0, cols = 0;
};

// Order of calls, per layer: expect(); begin(); matrix() and vector(), whose results last until the next
// layer's begin(), but for matrices that are used as stored: until end().
template <class T>
class CudaDenseWeights {
 public:
  // The streams and `profile` outlive this.
  CudaDenseWeights(const CudaLayerBytes& bytes, CudaStream& copying, CudaStream& computing,
                   CudaProfile& profile);

  // Places for the tensors, which come on the stream `copying`.
  void expect(DenseTensors& dense, const LayerTable& table, std::span<const Tensor> tensors,
              const TileSize& tiles);
  void begin();
  // As stored where that is T, else dequantized to `to`; null: to memory of the layer.
  CudaMatrix<T> matrix(const StoredLinear& stored, T* to = nullptr);
  const float* vector(const std::vector<float>& values);
  void end();

 private:
  CudaStream& copying_;
  CudaStream& computing_;
  CudaProfile& profile_;
  DeviceBuffer stored_, vectors_, weights_;
  Arena host_arena_, vector_arena_, weight_arena_;  // of the layer
  struct Staging {
    Buffer block;  // pinned: vectors on their way
    CudaEvent sent;
  };
  Staging staging_[2];  // of layers in turn
  size_t turn_ = 0;
  CudaEvent copied_, used_;
};

}  // namespace nibblecast
