#include <cassert>

#include "formats/mxfp4.h"
#include "formats/nvfp4.h"

namespace nibblecast {

template <class T>
void dequantize_mxfp4_ref(const Mxfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % 32 == 0 && row + count <= weight.rows && out_stride >= weight.cols);
  for (size_t r = 0; r < count; ++r) {
    const uint8_t* codes = weight.codes + (row + r) * (weight.cols / 2);
    const uint8_t* scales = weight.scales + (row + r) * (weight.cols / 32);
    for (size_t col = 0; col < weight.cols; ++col) {
      const int code = col % 2 == 0 ? codes[col / 2] & 15 : codes[col / 2] >> 4;
      const float value = decode_e2m1(static_cast<uint8_t>(code)) * decode_e8m0(scales[col / 32]);
      out[r * out_stride + col] = from_float<T>(value);
    }
  }
}

template void dequantize_mxfp4_ref(const Mxfp4View&, size_t, size_t, float*, size_t);
template void dequantize_mxfp4_ref(const Mxfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
