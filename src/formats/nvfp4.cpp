#include "formats/nvfp4.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <vector>

#include "base/cpu_isa.h"
#include "formats/kernels.h"

namespace nibblecast {
namespace {

#if NIBBLECAST_X86_KERNELS
constexpr size_t kPiece = 2048;  // floats that stay in the first-level cache until they are rounded

using Scales = std::array<float, 256>;  // e4m3(byte) * scale_2

Scales make_scales(float scale_2) {
  static const Scales values = [] {
    Scales made;
    for (size_t code = 0; code < 256; ++code) made[code] = decode_e4m3(static_cast<uint8_t>(code));
    return made;
  }();
  Scales scales;
  for (size_t code = 0; code < 256; ++code) scales[code] = values[code] * scale_2;
  return scales;
}

using Decode = void (*)(const uint8_t*, const uint8_t*, size_t, const float*, float*);

uint64_t write_blocks(Decode decode, const uint8_t* codes, const uint8_t* block_scales, size_t blocks,
                      const Scales& scales, float* out) {
  decode(codes, block_scales, blocks, scales.data(), out);
  return 0;
}

uint64_t write_blocks(Decode decode, const uint8_t* codes, const uint8_t* block_scales, size_t blocks,
                      const Scales& scales, bf16* out) {
  float wide[kPiece];
  uint64_t inexact = 0;
  for (size_t begin = 0; begin < blocks; begin += kPiece / 16) {
    const size_t count = std::min(kPiece / 16, blocks - begin);
    decode(codes + 8 * begin, block_scales + begin, count, scales.data(), wide);
    inexact += narrow_to_bf16(wide, 16 * count, out + 16 * begin);
  }
  return inexact;
}
#endif

void write_row_ref(const Nvfp4View& weight, size_t row, float* out, uint64_t&) {
  dequantize_nvfp4_ref(weight, row, 1, out, weight.cols);
}

void write_row_ref(const Nvfp4View& weight, size_t row, bf16* out, uint64_t& inexact) {
  std::vector<float> wide(weight.cols);
  dequantize_nvfp4_ref(weight, row, 1, wide.data(), weight.cols);
  inexact += narrow_to_bf16(wide.data(), weight.cols, out);
}

}  // namespace

template <class T>
uint64_t dequantize_nvfp4(const Nvfp4View& weight, size_t row, size_t count, T* out, size_t out_stride) {
  assert(weight.cols % 16 == 0 && row + count <= weight.rows && out_stride >= weight.cols);
  uint64_t inexact = 0;
#if NIBBLECAST_X86_KERNELS
  if (cpu_isa() != CpuIsa::kScalar) {
    const auto decode = cpu_isa() == CpuIsa::kAvx512 ? decode_nvfp4_avx512 : decode_nvfp4_avx2;
    const Scales scales = make_scales(weight.scale_2);
    const size_t blocks = weight.cols / 16;
    for (size_t r = row; r < row + count; ++r, out += out_stride) {
      inexact += write_blocks(decode, weight.codes + r * blocks * 8, weight.block_scales + r * blocks, blocks,
                              scales, out);
    }
    return inexact;
  }
#endif
  for (size_t r = row; r < row + count; ++r, out += out_stride) write_row_ref(weight, r, out, inexact);
  return inexact;
}

template uint64_t dequantize_nvfp4(const Nvfp4View&, size_t, size_t, float*, size_t);
template uint64_t dequantize_nvfp4(const Nvfp4View&, size_t, size_t, bf16*, size_t);

}  // namespace nibblecast
