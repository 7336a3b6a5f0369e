#include "ops/matmul.h"

namespace nibblecast {

template <class T>
void matmul_tile_ref(const TileShape& shape, const T* x, size_t x_stride, const T* w, size_t w_stride,
                     float* y) {
  for (size_t row = 0; row < shape.m; ++row) {
    for (size_t col = 0; col < shape.n; ++col) {
      double sum = 0;
      for (size_t i = 0; i < shape.k; ++i) {
        const T weight =
            shape.layout == WeightLayout::kOutputMajor ? w[col * w_stride + i] : w[i * w_stride + col];
        sum += double{to_float(x[row * x_stride + i])} * double{to_float(weight)};
      }
      y[row * shape.n + col] = static_cast<float>(sum);
    }
  }
}

template void matmul_tile_ref(const TileShape&, const float*, size_t, const float*, size_t, float*);
template void matmul_tile_ref(const TileShape&, const bf16*, size_t, const bf16*, size_t, float*);

}  // namespace nibblecast
