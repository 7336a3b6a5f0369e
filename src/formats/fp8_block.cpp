#include "formats/fp8_block.h"

namespace nibblecast {

template <class T>
void dequantize_fp8_block(const Fp8BlockView& weight, size_t row, size_t count, T* out, size_t out_stride) {
  dequantize_fp8_block_ref(weight, row, count, out, out_stride);
}

template void dequantize_fp8_block(const Fp8BlockView&, size_t, size_t, float*, size_t);
template void dequantize_fp8_block(const Fp8BlockView&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
