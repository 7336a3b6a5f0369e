#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "formats/stored_linear.h"

namespace nibblecast {
namespace {

bf16 stored_value(const Bf16View& weight, size_t index) {
  bf16 value;
  std::memcpy(&value, static_cast<const uint8_t*>(weight.values) + index * sizeof value, sizeof value);
  return value;
}

void row_ref(const Bf16View& weight, size_t row, float* out) {
  for (size_t col = 0; col < weight.cols; ++col)
    out[col] = to_float(stored_value(weight, row * weight.cols + col));
}

void row_ref(const F16View& weight, size_t row, float* out) {
  for (size_t col = 0; col < weight.cols; ++col) {
    f16 value;
    std::memcpy(&value, static_cast<const uint8_t*>(weight.values) + (row * weight.cols + col) * sizeof value,
                sizeof value);
    out[col] = to_float(value);
  }
}

void row_ref(const F32View& weight, size_t row, float* out) {
  const auto* from = static_cast<const uint8_t*>(weight.values) + row * weight.cols * sizeof(float);
  std::memcpy(out, from, weight.cols * sizeof(float));
}

void row_ref(const Fp8BlockView& weight, size_t row, float* out) {
  dequantize_fp8_block_ref(weight, row, 1, out, weight.cols);
}

void row_ref(const Mxfp4View& weight, size_t row, float* out) {
  dequantize_mxfp4_ref(weight, row, 1, out, weight.cols);
}

void row_ref(const Nvfp4View& weight, size_t row, float* out) {
  dequantize_nvfp4_ref(weight, row, 1, out, weight.cols);
}

void row_ref(const Int4View& weight, size_t row, float* out) {
  dequantize_int4_ref(weight, row, 1, out, weight.cols);
}

}  // namespace

void DequantizeReport::merge(const DequantizeReport& later) {
  inexact += later.inexact;
  if (!non_finite) non_finite = later.non_finite;
}

template <class T>
DequantizeReport dequantize_rows_ref(const StoredLinear& weight, size_t row, size_t count, T* out,
                                     size_t out_stride) {
  const size_t cols = cols_of(weight);
  assert(row + count <= rows_of(weight) && out_stride >= cols);
  std::vector<float> values(cols);
  DequantizeReport report;
  for (size_t r = 0; r < count; ++r) {
    std::visit([&](const auto& view) { row_ref(view, row + r, values.data()); }, weight);
    for (size_t col = 0; col < cols; ++col) {
      T& to = out[r * out_stride + col] = from_float<T>(values[col]);
      if constexpr (std::is_same_v<T, bf16>) {
        const auto* stored = std::get_if<Bf16View>(&weight);
        if (stored != nullptr) to = stored_value(*stored, (row + r) * cols + col);  // a NaN's bits too
      }
      if (!std::isnan(values[col]) && to_float(to) != values[col]) ++report.inexact;
      if (!std::isfinite(to_float(to)) && !report.non_finite) report.non_finite = (row + r) * cols + col;
    }
  }
  return report;
}

template DequantizeReport dequantize_rows_ref(const StoredLinear&, size_t, size_t, float*, size_t);
template DequantizeReport dequantize_rows_ref(const StoredLinear&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
