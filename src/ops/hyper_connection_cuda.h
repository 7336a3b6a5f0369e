// ops/hyper_connection_cuda.h - ops/hyper_connection.h on a device, for many tokens at once.
//
// The projection m = fn · z is a product like any other (ops/matmul_cuda.h), made before mix_streams_cuda:
// one for each stream with its columns of fn, as one over all of them would be a few tall tiles that leave
// most of the device idle. They are added here, streams ascending, then parts. fn is FP32 and the streams are
// T. For T = bf16 fn is split into kFnParts<bf16> = 3 BF16 numbers whose sum has its 24 bits, so that the
// product of each part is exact and sums are FP32: part p of output o is row p * outputs + o of the product's
// weight. For float there is one part, fn itself.
#pragma once

#include "formats/bf16.h"
#include "ops/amax_cuda.h"
#include "ops/hyper_connection.h"
#include "ops/matmul_cuda.h"

namespace nibblecast {

template <class T>
inline constexpr size_t kFnParts = sizeof(T) == 2 ? 3 : 1;

// fn [count] -> parts [kFnParts<T>, count], in device memory.
template <class T>
void split_fn_cuda(CudaStreamHandle stream, const float* fn, size_t count, T* parts);

// streams [tokens, n, width] with parts of fn [rows, n * width] -> products [n, tokens, rows].
inline ProductShape fn_product(size_t tokens, size_t streams, size_t width, size_t rows) {
  return {.m = tokens,
          .n = rows,
          .k = width,
          .x_stride = streams * width,
          .y_stride = rows,
          .w_stride = streams * width,
          .count = streams,
          .x_step = width,
          .w_step = width,
          .y_step = tokens * rows};
}

// Borrowed device memory but for the numbers.
struct HyperConnectionView {
  uint32_t streams = 0, width = 0, sinkhorn_iterations = 0;  // streams <= kMaxHyperStreams
  float eps = 0, norm_eps = 0;
  const float* base = nullptr;   // [(2 + n) * n]; of merge_streams_cuda [n]
  const float* scale = nullptr;  // [3]; of merge_streams_cuda [1]
};

// Per token: m = (sum of its parts) / rms(streams), split_mixes(), the weighted sum of the streams, and
// RMSNorm of it with `norm` [width]; one rounding at the end.
//   products [n, tokens, kFnParts<T> * (2 + n) * n] F32
//   streams [tokens, n, width] -> x [tokens, width], mixes [tokens]; max |x| into `seen`
template <class T>
void mix_streams_cuda(CudaStreamHandle stream, const HyperConnectionView& connection, const T* streams,
                      size_t tokens, const float* products, const float* norm, T* x, StreamMix* mixes,
                      DeviceAmax seen);

// y [tokens, width] into streams [tokens, n, width], in place; max |streams| into `seen`.
template <class T>
void spread_to_streams_cuda(CudaStreamHandle stream, const StreamMix* mixes, const T* y, size_t tokens,
                            size_t streams_count, size_t width, T* streams, DeviceAmax seen);

// Before the model's head: as mix_streams_cuda with pre only. products [n, tokens,
// kFnParts<T> * n].
template <class T>
void merge_streams_cuda(CudaStreamHandle stream, const HyperConnectionView& head, const T* streams,
                        size_t tokens, const float* products, const float* norm, T* x);

}  // namespace nibblecast
