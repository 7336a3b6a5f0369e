#include "formats/int4.h"

#include <cassert>
#include <type_traits>
#include <vector>

#include "base/cpu_isa.h"
#include "formats/kernels.h"

namespace nibblecast {
namespace {

#if NIBBLECAST_X86_KERNELS
using ScaleInt4 = void (*)(const uint8_t*, size_t, float, float*);

void scale_row(ScaleInt4 scale_int4, const Int4View& weight, size_t row, float* out) {
  const uint8_t* codes = weight.codes + row * (weight.cols / 2);
  size_t group = row * (weight.cols / weight.group);
  for (size_t col = 0; col < weight.cols; col += weight.group, ++group)
    scale_int4(codes + col / 2, weight.group, stored_scale(weight.scales, weight.scale_type, group),
               out + col);
}

template <class T>
void scale_rows(ScaleInt4 scale_int4, const Int4View& weight, size_t row, size_t count, T* out,
                size_t out_stride) {
  thread_local std::vector<float> wide;
  if (std::is_same_v<T, bf16> && wide.size() < weight.cols) wide.resize(weight.cols);
  for (size_t r = 0; r < count; ++r) {
    if constexpr (std::is_same_v<T, float>) {
      scale_row(scale_int4, weight, row + r, out + r * out_stride);
    } else {
      scale_row(scale_int4, weight, row + r, wide.data());
      narrow_to_bf16(wide.data(), weight.cols, out + r * out_stride);
    }
  }
}
#endif

}  // namespace

template <class T>
void dequantize_int4(const Int4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % weight.group == 0 && row + count <= weight.rows && out_stride >= weight.cols);
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return scale_rows(scale_int4_avx512, weight, row, count, out, out_stride);
    case CpuIsa::kAvx2:
      return scale_rows(scale_int4_avx2, weight, row, count, out, out_stride);
    case CpuIsa::kScalar:
      break;
  }
#endif
  dequantize_int4_ref(weight, row, count, out, out_stride);
}

template void dequantize_int4(const Int4View&, size_t, size_t, float*, size_t);
template void dequantize_int4(const Int4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
