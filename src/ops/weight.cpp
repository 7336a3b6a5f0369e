#include "ops/weight.h"

#include <cstring>

namespace nibblecast {
namespace {

template <class Stored, class T>
void read_plain(const void* values, size_t first, size_t count, T* out) {
  const char* from = static_cast<const char*>(values) + first * sizeof(Stored);
  if constexpr (std::is_same_v<Stored, T>) {
    if (count > 0) std::memcpy(out, from, count * sizeof(T));
  } else {
    for (size_t i = 0; i < count; ++i) {
      Stored value;
      std::memcpy(&value, from + i * sizeof(Stored), sizeof(Stored));
      out[i] = from_float<T>(to_float(value));
    }
  }
}

template <class T>
void read(const Bf16View& weight, size_t row, size_t count, T* out) {
  read_plain<bf16>(weight.values, row * weight.cols, count * weight.cols, out);
}
template <class T>
void read(const F16View& weight, size_t row, size_t count, T* out) {
  read_plain<f16>(weight.values, row * weight.cols, count * weight.cols, out);
}
template <class T>
void read(const F32View& weight, size_t row, size_t count, T* out) {
  read_plain<float>(weight.values, row * weight.cols, count * weight.cols, out);
}
template <class T>
void read(const Fp8BlockView& weight, size_t row, size_t count, T* out) {
  dequantize_fp8_block(weight, row, count, out, weight.cols);
}
template <class T>
void read(const Mxfp4View& weight, size_t row, size_t count, T* out) {
  dequantize_mxfp4(weight, row, count, out, weight.cols);
}
template <class T>
void read(const Nvfp4View& weight, size_t row, size_t count, T* out) {
  dequantize_nvfp4(weight, row, count, out, weight.cols);
}
template <class T>
void read(const Int4View& weight, size_t row, size_t count, T* out) {
  dequantize_int4(weight, row, count, out, weight.cols);
}

}  // namespace

size_t weight_rows(const WeightView& weight) {
  return std::visit([](const auto& view) { return view.rows; }, weight);
}

size_t weight_cols(const WeightView& weight) {
  return std::visit([](const auto& view) { return view.cols; }, weight);
}

template <class T>
void read_weight(const WeightView& weight, size_t row, size_t count, T* out) {
  std::visit([&](const auto& view) { read(view, row, count, out); }, weight);
}

template void read_weight(const WeightView&, size_t, size_t, float*);
template void read_weight(const WeightView&, size_t, size_t, bf16*);

}  // namespace nibblecast
