#include "formats/stored_linear.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <memory>
#include <vector>

#include "base/cpu_isa.h"
#include "formats/kernels.h"

namespace nibblecast {
namespace {

// Ordered as magnitudes are; from infinity on no number. Signed, which vectors of every x86-64 can compare.
int16_t magnitude(bf16 value) { return static_cast<int16_t>(value.bits & 0x7fff); }
int32_t magnitude(float value) { return static_cast<int32_t>(std::bit_cast<uint32_t>(value) & 0x7fffffff); }
constexpr int16_t infinity(bf16) { return 0x7f80; }
constexpr int32_t infinity(float) { return 0x7f800000; }

template <class T>
std::optional<size_t> first_non_finite(const T* values, size_t count) {
  decltype(magnitude(T{})) largest = 0;  // no early exit, so that it is done in vectors
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, magnitude(values[i]));
  if (largest < infinity(T{})) return {};
  return std::find_if(values, values + count, [](T value) { return magnitude(value) >= infinity(T{}); }) -
         values;
}

// From 2^-124 on the last bit of an E4M3 number (2^-9 or more) is one of BF16 (2^-133 or more).
bool is_exact_in_bf16(const Fp8BlockView& weight, size_t row) {
  if (weight.scale_type != ScaleType::kE8M0) return false;
  const size_t tiles = (weight.cols + weight.tile_cols - 1) / weight.tile_cols;
  const uint8_t* scales = static_cast<const uint8_t*>(weight.scales) + row / weight.tile_rows * tiles;
  return std::all_of(scales, scales + tiles, [](uint8_t scale) { return scale >= 3; });
}

template <class T>
uint64_t write_row(const Mxfp4View& weight, size_t row, T* out) {
  dequantize_mxfp4(weight, row, 1, out, weight.cols);
  return 0;
}

template <class T>
uint64_t write_row(const Nvfp4View& weight, size_t row, T* out) {
  return dequantize_nvfp4(weight, row, 1, out, weight.cols);
}

uint64_t write_row(const Int4View& weight, size_t row, float* out) {
  dequantize_int4(weight, row, 1, out, weight.cols);
  return 0;
}

uint64_t write_row(const Int4View& weight, size_t row, bf16* out) {
  const auto wide = std::make_unique_for_overwrite<float[]>(weight.cols);
  dequantize_int4(weight, row, 1, wide.get(), weight.cols);
  return narrow_to_bf16(wide.get(), weight.cols, out);
}

uint64_t write_row(const Fp8BlockView& weight, size_t row, float* out) {
  dequantize_fp8_block(weight, row, 1, out, weight.cols);
  return 0;
}

uint64_t write_row(const Fp8BlockView& weight, size_t row, bf16* out) {
  if (is_exact_in_bf16(weight, row)) {
    dequantize_fp8_block(weight, row, 1, out, weight.cols);
    return 0;
  }
  const auto wide = std::make_unique_for_overwrite<float[]>(weight.cols);
  dequantize_fp8_block(weight, row, 1, wide.get(), weight.cols);
  return narrow_to_bf16(wide.get(), weight.cols, out);
}

// The stored values of a row, wherever they lie.
template <class T, class View>
void copy_row(const View& weight, size_t row, T* out) {
  const size_t row_bytes = weight.cols * sizeof(T);
  std::memcpy(out, static_cast<const uint8_t*>(weight.values) + row * row_bytes, row_bytes);
}

uint64_t write_row(const F32View& weight, size_t row, float* out) {
  copy_row(weight, row, out);
  return 0;
}

uint64_t write_row(const F32View& weight, size_t row, bf16* out) {
  const auto wide = std::make_unique_for_overwrite<float[]>(weight.cols);
  copy_row(weight, row, wide.get());
  return narrow_to_bf16(wide.get(), weight.cols, out);
}

uint64_t write_row(const Bf16View& weight, size_t row, bf16* out) {
  copy_row(weight, row, out);
  return 0;
}

template <class Stored, class View>
void widen_row(const View& weight, size_t row, float* out) {
  std::vector<Stored> stored(weight.cols);
  copy_row(weight, row, stored.data());
  for (size_t col = 0; col < weight.cols; ++col) out[col] = to_float(stored[col]);
}

uint64_t write_row(const Bf16View& weight, size_t row, float* out) {
  widen_row<bf16>(weight, row, out);
  return 0;
}

uint64_t write_row(const F16View& weight, size_t row, float* out) {
  widen_row<f16>(weight, row, out);
  return 0;
}

uint64_t write_row(const F16View& weight, size_t row, bf16* out) {
  const auto wide = std::make_unique_for_overwrite<float[]>(weight.cols);
  widen_row<f16>(weight, row, wide.get());
  return narrow_to_bf16(wide.get(), weight.cols, out);
}

}  // namespace

bool is_bf16(const StoredLinear& weight) {
  if (const auto* const fp8 = std::get_if<Fp8BlockView>(&weight)) return fp8->scale_type == ScaleType::kE8M0;
  return std::holds_alternative<Bf16View>(weight) || std::holds_alternative<Mxfp4View>(weight);
}

uint64_t narrow_to_bf16(const float* values, size_t count, bf16* out) {
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return narrow_avx512(values, count, out);
    case CpuIsa::kAvx2:
      return narrow_avx2(values, count, out);
    case CpuIsa::kScalar:
      break;
  }
#endif
  uint64_t inexact = 0;
  for (size_t i = 0; i < count; ++i) {
    out[i] = to_bf16(values[i]);
    inexact += values[i] == values[i] && to_float(out[i]) != values[i];
  }
  return inexact;
}

template <class T>
DequantizeReport dequantize_rows(const StoredLinear& weight, size_t row, size_t count, T* out,
                                 size_t out_stride) {
  const size_t cols = cols_of(weight);
  assert(row + count <= rows_of(weight) && out_stride >= cols);
  DequantizeReport report;
  for (size_t r = 0; r < count; ++r) {
    T* to = out + r * out_stride;
    report.inexact += std::visit([&](const auto& view) { return write_row(view, row + r, to); }, weight);
    if (report.non_finite) continue;
    if (const auto col = first_non_finite(to, cols)) report.non_finite = (row + r) * cols + *col;
  }
  return report;
}

template DequantizeReport dequantize_rows(const StoredLinear&, size_t, size_t, float*, size_t);
template DequantizeReport dequantize_rows(const StoredLinear&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
