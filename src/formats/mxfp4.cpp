#include "formats/mxfp4.h"

namespace nibblecast {

template <class T>
void dequantize_mxfp4(const Mxfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  dequantize_mxfp4_ref(weight, row, count, out, out_stride);
}

template void dequantize_mxfp4(const Mxfp4View&, size_t, size_t, float*, size_t);
template void dequantize_mxfp4(const Mxfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
