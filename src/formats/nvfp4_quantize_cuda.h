// formats/nvfp4_quantize_cuda.h - formats/nvfp4_quantize.h on a device: the same bytes and sums. T: bf16 or
// float.
//
// All pointers are device memory. The group's amax stays there between the two passes, so that the host is
// not waited for; it gets scale_2 from nvfp4_scale_2 when it has read the amax.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cuda.h"
#include "formats/nvfp4_quantize.h"

namespace nibblecast {

// Raises *amax to the largest magnitude of the finite values, and lowers *non_finite to first_index plus the
// index of the first NaN or infinity. The caller set them to 0 and to kAllFinite (all bytes 0xff) before the
// first of a tensor's parts. `values` at 16 bytes.
inline constexpr uint64_t kAllFinite = UINT64_MAX;
template <class T>
void scan_amax_cuda(CudaStreamHandle stream, const T* values, size_t count, size_t first_index, float* amax,
                    uint64_t* non_finite);

// Nvfp4Quantizer(method, *amax).encode(...), of any method but kWmse. `values` at 16 bytes, `codes` at 8. What becomes of values that
// are not finite is undefined.
template <class T>
void encode_nvfp4_cuda(CudaStreamHandle stream, WeightMethod method, const float* amax, const T* values,
                       size_t rows, size_t cols, uint8_t* codes, uint8_t* block_scales,
                       RowLoss* losses = nullptr);

}  // namespace nibblecast
