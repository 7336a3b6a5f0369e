#include "formats/mxfp4.h"

#include <cassert>

#include "base/cpu_isa.h"
#include "formats/kernels.h"
#include "formats/nvfp4.h"

namespace nibblecast {
namespace {

#if NIBBLECAST_X86_KERNELS
Mxfp4Values make_values() {
  Mxfp4Values values;
  for (unsigned scale = 0; scale < 256; ++scale) {
    for (unsigned code = 0; code < 16; ++code) {
      const float value = decode_e2m1(static_cast<uint8_t>(code)) * decode_e8m0(static_cast<uint8_t>(scale));
      values.bits[scale][code] = to_bf16(value).bits;
    }
  }
  return values;
}

template <class T>
using Decode = void (*)(const uint8_t*, const uint8_t*, size_t, const Mxfp4Values&, T*);

template <class T>
void decode_rows(Decode<T> decode, const Mxfp4View& weight, size_t row, size_t count, T* out,
                 size_t out_stride) {
  static const Mxfp4Values values = make_values();
  const size_t blocks = weight.cols / 32;
  for (size_t r = 0; r < count; ++r) {
    decode(weight.codes + (row + r) * blocks * 16, weight.scales + (row + r) * blocks, blocks, values,
           out + r * out_stride);
  }
}
#endif

}  // namespace

template <class T>
void dequantize_mxfp4(const Mxfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % 32 == 0 && row + count <= weight.rows && out_stride >= weight.cols);
#if NIBBLECAST_X86_KERNELS
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return decode_rows<T>(decode_mxfp4_avx512, weight, row, count, out, out_stride);
    case CpuIsa::kAvx2:
      return decode_rows<T>(decode_mxfp4_avx2, weight, row, count, out, out_stride);
    case CpuIsa::kScalar:
      break;
  }
#endif
  dequantize_mxfp4_ref(weight, row, count, out, out_stride);
}

template void dequantize_mxfp4(const Mxfp4View&, size_t, size_t, float*, size_t);
template void dequantize_mxfp4(const Mxfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
