#include <cassert>

#include "formats/int4.h"
#include "formats/kernels.h"

namespace nibblecast {

template <class T>
void dequantize_int4_ref(const Int4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % weight.group == 0 && row + count <= weight.rows && out_stride >= weight.cols);
  for (size_t r = 0; r < count; ++r) {
    const uint8_t* codes = weight.codes + (row + r) * (weight.cols / 2);
    const size_t first_group = (row + r) * (weight.cols / weight.group);
    for (size_t col = 0; col < weight.cols; ++col) {
      const int nibble = col % 2 == 0 ? codes[col / 2] & 15 : codes[col / 2] >> 4;
      const float scale = stored_scale(weight.scales, weight.scale_type, first_group + col / weight.group);
      out[r * out_stride + col] = from_float<T>(static_cast<float>(nibble - 8) * scale);
    }
  }
}

template void dequantize_int4_ref(const Int4View&, size_t, size_t, float*, size_t);
template void dequantize_int4_ref(const Int4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
