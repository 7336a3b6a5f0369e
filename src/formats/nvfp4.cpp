#include "formats/nvfp4.h"

#include <array>
#include <cassert>
#include <type_traits>
#include <vector>

#include "base/cpu_isa.h"
#include "formats/kernels.h"

namespace nibblecast {
namespace {

void write_rows(const Nvfp4View& weight, size_t row, size_t count, float* out, size_t out_stride) {
#if NIBBLECAST_X86_KERNELS
  if (cpu_isa() != CpuIsa::kScalar) {
    std::array<float, 256> scales;
    for (size_t code = 0; code < 256; ++code)
      scales[code] = decode_e4m3(static_cast<uint8_t>(code)) * weight.scale_2;
    const auto decode = cpu_isa() == CpuIsa::kAvx512 ? decode_nvfp4_avx512 : decode_nvfp4_avx2;
    const size_t blocks = weight.cols / 16;
    for (size_t r = 0; r < count; ++r) {
      decode(weight.codes + (row + r) * blocks * 8, weight.block_scales + (row + r) * blocks, blocks,
             scales.data(), out + r * out_stride);
    }
    return;
  }
#endif
  dequantize_nvfp4_ref(weight, row, count, out, out_stride);
}

}  // namespace

template <class T>
uint64_t dequantize_nvfp4(const Nvfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % 16 == 0 && row + count <= weight.rows && out_stride >= weight.cols);
  if constexpr (std::is_same_v<T, float>) {
    write_rows(weight, row, count, out, out_stride);
    return 0;
  } else {
    std::vector<float> wide(weight.cols);
    uint64_t inexact = 0;
    for (size_t r = 0; r < count; ++r) {
      write_rows(weight, row + r, 1, wide.data(), weight.cols);
      inexact += narrow_to_bf16(wide.data(), weight.cols, out + r * out_stride);
    }
    return inexact;
  }
}

template uint64_t dequantize_nvfp4(const Nvfp4View&, size_t, size_t, float*, size_t);
template uint64_t dequantize_nvfp4(const Nvfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
