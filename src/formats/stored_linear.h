// formats/stored_linear.h - the weight of a linear layer as a checkpoint stores it, whatever the format, and
// its values.
//
//   value = the formula of its format (bf16.h, f16.h, fp8_block.h, int4.h, mxfp4.h, nvfp4.h), products in
//   FP32
//
// As BF16 the FP32 value is rounded once, to nearest even. It is exact for BF16 and MXFP4, for FP8 with E8M0
// scales from 2^-124 on, and for NVFP4 whose scale_2 is a power of two (down to the smallest BF16 numbers);
// else values are rounded and counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <variant>

#include "formats/bf16.h"
#include "formats/f16.h"
#include "formats/fp8_block.h"
#include "formats/int4.h"
#include "formats/mxfp4.h"
#include "formats/nvfp4.h"

namespace nibblecast {

struct Bf16View {
  const void* values = nullptr;  // [rows, cols]; may be unaligned
  size_t rows = 0, cols = 0;
};

struct F16View {
  const void* values = nullptr;  // [rows, cols]; may be unaligned
  size_t rows = 0, cols = 0;
};

struct F32View {
  const void* values = nullptr;  // [rows, cols]; may be unaligned
  size_t rows = 0, cols = 0;
};

// Borrowed bytes; whoever made the view checked its sizes against the shapes.
using StoredLinear = std::variant<Bf16View, F32View, Fp8BlockView, Mxfp4View, Nvfp4View, Int4View, F16View>;

// Of values without scales.
template <class View>
inline constexpr bool kIsPlainView =
    std::is_same_v<View, Bf16View> || std::is_same_v<View, F16View> || std::is_same_v<View, F32View>;

inline size_t rows_of(const StoredLinear& weight) {
  return std::visit([](const auto& view) { return view.rows; }, weight);
}
inline size_t cols_of(const StoredLinear& weight) {
  return std::visit([](const auto& view) { return view.cols; }, weight);
}

// All values are numbers of BF16: BF16, MXFP4, and FP8 with E8M0 scales (from 2^-124 on).
bool is_bf16(const StoredLinear& weight);

struct DequantizeReport {
  uint64_t inexact = 0;              // BF16 values that are not the FP32 value; always 0 for float
  std::optional<size_t> non_finite;  // row * cols + col of the first NaN or infinity written

  void merge(const DequantizeReport& later);  // counts of both; non_finite: this one's if it has one
  bool operator==(const DequantizeReport&) const = default;
};

// Rows [row, row + count) to out[count, cols] (row stride `out_stride` elements). T: float or bf16. A NaN
// code or scale gives NaN and is reported.
template <class T>
DequantizeReport dequantize_rows(const StoredLinear& weight, size_t row, size_t count, T* out,
                                 size_t out_stride);
// The definition; same bits.
template <class T>
DequantizeReport dequantize_rows_ref(const StoredLinear& weight, size_t row, size_t count, T* out,
                                     size_t out_stride);

}  // namespace nibblecast
