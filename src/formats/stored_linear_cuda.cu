#include <cuda_runtime.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <type_traits>

#include "formats/codes.cuh"
#include "formats/stored_linear_cuda.h"

namespace nibblecast {
namespace {

constexpr unsigned kThreads = 128;
constexpr unsigned kTurns = 4;  // parts that a thread has on their way from memory together
constexpr size_t kEight = 8;    // values of a part: 16 bytes of BF16. One where alignment forbids it
constexpr size_t kMaxGridY = 65535;

bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Eight E2M1 codes from element `index` on, or one of them in the lowest bits.
template <size_t kWidth>
__device__ uint32_t load_nibbles(const uint8_t* codes, size_t index) {
  if constexpr (kWidth == kEight) return *reinterpret_cast<const uint32_t*>(codes + index / 2);
  return uint32_t{codes[index / 2]} >> index % 2 * 4;
}

// The formats as the kernel reads them, from the first wanted row on. part<kWidth>(row, col) fetches what
// kWidth values need, and value(part, i) is one of them in FP32. kIsFlat: rows without gaps are like one long
// row. kIsBf16: the upper half of a value is all of it.

struct Mxfp4Rows {
  static constexpr bool kIsFlat = true, kIsBf16 = true;
  const uint8_t *codes, *scales;
  size_t cols;

  Mxfp4Rows(const Mxfp4View& view, size_t row)
      : codes(view.codes + row * (view.cols / 2)),
        scales(view.scales + row * (view.cols / 32)),
        cols(view.cols) {}
  bool in_eights() const { return is_aligned(codes, sizeof(uint32_t)); }

  struct Part {
    uint32_t codes;
    uint8_t scale;
  };
  template <size_t kWidth>
  __device__ Part part(size_t row, size_t col) const {
    const size_t index = row * cols + col;
    return {load_nibbles<kWidth>(codes, index), scales[index / 32]};
  }
  __device__ float value(const Part& part, unsigned i) const {
    const float scale = e8m0_value(part.scale);
    return scale == scale ? e2m1_value(part.codes >> 4 * i) * scale : scale;
  }
};

struct Nvfp4Rows {
  static constexpr bool kIsFlat = true, kIsBf16 = false;
  const uint8_t *codes, *block_scales;
  float scale_2;
  size_t cols;

  Nvfp4Rows(const Nvfp4View& view, size_t row)
      : codes(view.codes + row * (view.cols / 2)),
        block_scales(view.block_scales + row * (view.cols / 16)),
        scale_2(view.scale_2),
        cols(view.cols) {}
  bool in_eights() const { return is_aligned(codes, sizeof(uint32_t)); }

  struct Part {
    uint32_t codes;
    uint8_t scale;
  };
  template <size_t kWidth>
  __device__ Part part(size_t row, size_t col) const {
    const size_t index = row * cols + col;
    return {load_nibbles<kWidth>(codes, index), block_scales[index / 16]};
  }
  __device__ float value(const Part& part, unsigned i) const {
    return product(e2m1_value(part.codes >> 4 * i), product(e4m3_value(part.scale), scale_2));
  }
};

// Every NaN is the one of e8m0_value. `scales` may be unaligned.
__device__ float stored_scale(const uint8_t* scales, ScaleType type, size_t index) {
  if (type == ScaleType::kE8M0) return e8m0_value(scales[index]);
  float scale;
  if (type == ScaleType::kBF16) {
    const uint32_t bits = uint32_t{scales[2 * index + 1]} << 24 | uint32_t{scales[2 * index]} << 16;
    scale = __uint_as_float(bits);
  } else if (type == ScaleType::kF16) {
    const uint32_t bits = uint32_t{scales[2 * index + 1]} << 8 | scales[2 * index];
    scale = to_float(f16{static_cast<uint16_t>(bits)});
  } else {
    memcpy(&scale, scales + index * sizeof scale, sizeof scale);
  }
  return scale == scale ? scale : e8m0_value(255);
}

struct Int4Rows {
  static constexpr bool kIsFlat = true, kIsBf16 = false;
  const uint8_t *codes, *scales;
  ScaleType scale_type;
  size_t cols;
  uint32_t group;

  Int4Rows(const Int4View& view, size_t row)
      : codes(view.codes + row * (view.cols / 2)),
        scales(static_cast<const uint8_t*>(view.scales) +
               row * (view.cols / view.group) * scale_bytes(view.scale_type)),
        scale_type(view.scale_type),
        cols(view.cols),
        group(static_cast<uint32_t>(view.group)) {}
  bool in_eights() const { return is_aligned(codes, sizeof(uint32_t)); }

  struct Part {
    uint32_t codes;
    float scale;
  };
  template <size_t kWidth>
  __device__ Part part(size_t row, size_t col) const {
    const size_t index = row * cols + col;
    return {load_nibbles<kWidth>(codes, index), stored_scale(scales, scale_type, index / group)};
  }
  __device__ float value(const Part& part, unsigned i) const {
    return product(static_cast<float>(static_cast<int>(part.codes >> 4 * i & 15) - 8), part.scale);
  }
};

struct Fp8BlockRows {
  static constexpr bool kIsFlat = false, kIsBf16 = false;
  const uint8_t *codes, *scales;
  ScaleType scale_type;
  size_t first_row, cols;
  uint32_t tile_rows, tile_cols, tiles_in_row;  // 32 bits: the kernel divides by them

  Fp8BlockRows(const Fp8BlockView& view, size_t row)
      : codes(view.codes + row * view.cols),
        scales(static_cast<const uint8_t*>(view.scales)),
        scale_type(view.scale_type),
        first_row(row),
        cols(view.cols),
        tile_rows(static_cast<uint32_t>(view.tile_rows)),
        tile_cols(static_cast<uint32_t>(view.tile_cols)),
        tiles_in_row(static_cast<uint32_t>((view.cols + view.tile_cols - 1) / view.tile_cols)) {}
  bool in_eights() const {
    return is_aligned(codes, kEight) && cols % kEight == 0 && tile_cols % kEight == 0;
  }

  struct Part {
    uint64_t codes;
    float scale;
  };
  template <size_t kWidth>
  __device__ Part part(size_t row, size_t col) const {
    const uint8_t* at = codes + row * cols + col;
    const uint32_t tile_row = static_cast<uint32_t>(first_row + row) / tile_rows;
    const size_t tile = size_t{tile_row} * tiles_in_row + static_cast<uint32_t>(col) / tile_cols;
    const float scale = stored_scale(scales, scale_type, tile);
    if constexpr (kWidth == kEight) return {*reinterpret_cast<const uint64_t*>(at), scale};
    return {*at, scale};
  }
  __device__ float value(const Part& part, unsigned i) const {
    return product(e4m3_value(static_cast<uint8_t>(part.codes >> 8 * i)), part.scale);
  }
};

// Of BF16, F16 or F32.
template <class Stored>
struct PlainRows {
  static constexpr bool kIsFlat = true, kIsBf16 = false;
  const uint8_t* values;
  size_t cols;

  template <class View>
  PlainRows(const View& view, size_t row)
      : values(static_cast<const uint8_t*>(view.values) + row * view.cols * sizeof(Stored)),
        cols(view.cols) {}
  bool in_eights() const { return is_aligned(values, 16) && cols % kEight == 0; }

  struct alignas(16) Part {
    Stored values[kEight];
  };
  template <size_t kWidth>
  __device__ Part part(size_t row, size_t col) const {
    const uint8_t* at = values + (row * cols + col) * sizeof(Stored);
    if constexpr (kWidth == kEight) return *reinterpret_cast<const Part*>(at);
    Part part;
    memcpy(&part.values[0], at, sizeof(Stored));
    return part;
  }
  __device__ float value(const Part& part, unsigned i) const { return to_float(part.values[i]); }
};

template <class T, bool kIsBf16>
__device__ T narrowed(float value) {
  if constexpr (std::is_same_v<T, bf16> && kIsBf16)
    return {static_cast<uint16_t>(__float_as_uint(value) >> 16)};
  return from_float<T>(value);
}

template <class T, size_t kWidth>
struct alignas(kWidth == kEight ? 16 : sizeof(T)) Values {
  T values[kWidth];
};

template <class T, size_t kWidth, class Rows>
__global__ void __launch_bounds__(kThreads)
    dequantize(const Rows from, size_t rows, size_t cols, T* __restrict__ out, size_t out_stride) {
  const size_t first = (size_t{blockIdx.x} * kThreads * kTurns + threadIdx.x) * kWidth;
  for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
    typename Rows::Part parts[kTurns];
#pragma unroll
    for (unsigned turn = 0; turn < kTurns; ++turn) {
      const size_t col = first + turn * kThreads * kWidth;
      if (col < cols) parts[turn] = from.template part<kWidth>(row, col);
    }
#pragma unroll
    for (unsigned turn = 0; turn < kTurns; ++turn) {
      const size_t col = first + turn * kThreads * kWidth;
      if (col >= cols) break;
      Values<T, kWidth> made;
#pragma unroll
      for (unsigned i = 0; i < kWidth; ++i)
        made.values[i] = narrowed<T, Rows::kIsBf16>(from.value(parts[turn], i));
      *reinterpret_cast<Values<T, kWidth>*>(out + row * out_stride + col) = made;
    }
  }
}

template <class T, size_t kWidth, class Rows>
void launch(CudaStreamHandle stream, const Rows& from, size_t count, T* out, size_t out_stride) {
  const bool is_flat = Rows::kIsFlat && out_stride == from.cols;
  const size_t rows = is_flat ? 1 : count, cols = is_flat ? count * from.cols : from.cols;
  constexpr size_t kBlock = kThreads * kTurns * kWidth;
  const dim3 grid(static_cast<unsigned>((cols + kBlock - 1) / kBlock),
                  static_cast<unsigned>(std::min(rows, kMaxGridY)));
  dequantize<T, kWidth><<<grid, kThreads, 0, stream>>>(from, rows, cols, out, out_stride);
  check_cuda_launch("dequantize");
}

template <class T, class Rows>
void write_rows(CudaStreamHandle stream, const Rows& from, size_t count, T* out, size_t out_stride) {
  if (from.in_eights() && is_aligned(out, 16) && (out_stride * sizeof(T)) % 16 == 0)
    launch<T, kEight>(stream, from, count, out, out_stride);
  else
    launch<T, 1>(stream, from, count, out, out_stride);
}

// Stored values that are wanted as they are, a NaN's bits too.
template <class T>
void copy_rows(CudaStreamHandle stream, const void* values, size_t row, size_t cols, size_t count, T* out,
               size_t out_stride) {
  const size_t row_bytes = cols * sizeof(T);
  const auto* from = static_cast<const uint8_t*>(values) + row * row_bytes;
  if (out_stride == cols) return copy_async(stream, out, from, count * row_bytes);
  check_cuda(cudaMemcpy2DAsync(out, out_stride * sizeof(T), from, row_bytes, row_bytes, count,
                               cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpy2DAsync");
}

template <class T>
void write(CudaStreamHandle stream, const Mxfp4View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  write_rows(stream, Mxfp4Rows(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const Nvfp4View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  write_rows(stream, Nvfp4Rows(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const Int4View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  write_rows(stream, Int4Rows(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const Fp8BlockView& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  write_rows(stream, Fp8BlockRows(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const Bf16View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  if constexpr (std::is_same_v<T, bf16>)
    copy_rows(stream, view.values, row, view.cols, count, out, out_stride);
  else
    write_rows(stream, PlainRows<bf16>(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const F16View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  write_rows(stream, PlainRows<f16>(view, row), count, out, out_stride);
}

template <class T>
void write(CudaStreamHandle stream, const F32View& view, size_t row, size_t count, T* out,
           size_t out_stride) {
  if constexpr (std::is_same_v<T, float>)
    copy_rows(stream, view.values, row, view.cols, count, out, out_stride);
  else
    write_rows(stream, PlainRows<float>(view, row), count, out, out_stride);
}

}  // namespace

template <class T>
void dequantize_rows_cuda(CudaStreamHandle stream, const StoredLinear& weight, size_t row, size_t count,
                          T* out, size_t out_stride) {
  assert(row + count <= rows_of(weight) && out_stride >= cols_of(weight));
  if (count == 0 || cols_of(weight) == 0) return;
  std::visit([&](const auto& view) { write(stream, view, row, count, out, out_stride); }, weight);
}

template void dequantize_rows_cuda(CudaStreamHandle, const StoredLinear&, size_t, size_t, float*, size_t);
template void dequantize_rows_cuda(CudaStreamHandle, const StoredLinear&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
