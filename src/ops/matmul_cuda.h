// ops/matmul_cuda.h - products on a device, by cuBLASLt, which is looked for when the first is made.
//
//   y[row, col] = sum over i of x[row, i] * w[col, i]
//
// x [m, k], w [n, k], y [m, n], row strides in elements; T: float (FP32 products, no TF32) or bf16; Out:
// float or T, rounded once. Sums are FP32, in one order for a shape: one algorithm a shape, chosen by
// cuBLASLt's own ranking without timing, never one that divides the reduction. So two runs on one kind of
// device with one version of the library give the same bits.
//
// k and every stride are multiples of 16 bytes, pointers too. kRefused where the library is not to be found
// or memory is short, kDevice where a product fails.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/cuda.h"
#include "formats/bf16.h"

namespace nibblecast {

struct ProductShape {
  size_t m = 0, n = 0, k = 0;
  size_t x_stride = 0, y_stride = 0;
  size_t w_stride = 0;  // 0: k
  // Several products at once, `*_step` elements from one to the next.
  size_t count = 1, x_step = 0, w_step = 0, y_step = 0;
  auto operator<=>(const ProductShape&) const = default;
};

// Of one device; one caller, one stream at a time.
class CudaProducts {
 public:
  CudaProducts();
  ~CudaProducts();
  CudaProducts(CudaProducts&&) noexcept;

  template <class T, class Out>
  void multiply(CudaStreamHandle stream, const ProductShape& shape, const T* x, const T* w, Out* y);

  // "cuBLASLt 13.0.2"
  std::string library() const;

  static constexpr size_t kWorkspaceBytes = 32 << 20;  // device memory that it holds

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibblecast
