// ops/rows_cuda.h - moving rows about on a device: embedding, experts' inputs and outputs, rounding.
//
// No two rows of a call go to the same place, so nothing is added in an order that could change.
#pragma once

#include <cstdint>

#include "formats/bf16.h"
#include "ops/amax_cuda.h"

namespace nibblecast {

// Every token whose id is in [first, first + count): row id - first of embedding [count, width] to all
// `streams_count` streams of the token; max |x| of what was taken into `seen`. streams [tokens,
// streams_count, width].
template <class T>
void embed_cuda(CudaStreamHandle stream, const bf16* embedding, uint64_t first, uint64_t count,
                const int32_t* ids, size_t tokens, size_t streams_count, size_t width, T* streams,
                DeviceAmax seen);

// out[row] = x[tokens[row]], rows of `width`; max |out| into `seen`.
template <class T>
void gather_rows_cuda(CudaStreamHandle stream, const T* x, size_t width, const uint32_t* tokens, size_t rows,
                      T* out, DeviceAmax seen);

// sum[tokens[row]] += y[row], times weights[row] where there are weights, FP32; no token twice.
void scatter_add_rows_cuda(CudaStreamHandle stream, const float* y, size_t width, const uint32_t* tokens,
                           size_t rows, float* sum, const float* weights = nullptr);

// x[row] = round(x[row] + y[row]), rows of `width`; max |x| into `seen`, which may be null.
template <class T>
void add_rounded_cuda(CudaStreamHandle stream, const float* y, size_t rows, size_t width, T* x,
                      DeviceAmax seen);

// out[i] = round(x[i])
template <class T>
void round_cuda(CudaStreamHandle stream, const float* x, size_t count, T* out);

// out[row, i] = round(x[row, i] + bias[i]) for x [rows, width]; out may be x where T is float. `stride`:
// elements from a row to the next on both sides; 0: width.
template <class T>
void add_bias_cuda(CudaStreamHandle stream, const float* x, size_t rows, size_t width, const float* bias,
                   T* out, size_t stride = 0);

}  // namespace nibblecast
