// formats/nvfp4_input.h - activations rounded to NVFP4 and back, as kernels of W4A4 linears do with their
// input: per token, blocks of 16 along the input, each with an E4M3 scale of its own under the linear's
// input_scale.
//
//   t = block_amax / (6 * input_scale)          a block above 6 * 448 * input_scale saturates: t = 448
//   s = float(e4m3(t)) * input_scale            below 1e-5: 1, which makes the block zero
//   y = e2m1(|x| / s) * s, with the sign of x   -0 gives 0, and is rounded once more to bf16 where T is
//
// All FP32, true divisions. These are the formulas of NVIDIA ModelOpt 0.47's fake quantization
// (kernels/quantization/gemm/fp4_kernel_hopper.py and common/nvfp4_quant.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibblecast {

// x [count] -> y [count], which may be x; count is a multiple of 16, x finite, input_scale above 0 and
// finite. Returns how many blocks saturated. T: float or bf16.
template <class T>
uint64_t round_nvfp4_input(const T* x, size_t count, float input_scale, T* y);
// The plain definition, with the same results to the bit.
template <class T>
uint64_t round_nvfp4_input_ref(const T* x, size_t count, float input_scale, T* y);

}  // namespace nibblecast
