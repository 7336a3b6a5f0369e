#include "ops/panel.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/matmul.h"
#include "ops/panel_kernels.h"

namespace nibblecast {
namespace {

void read_packed(const WeightView& weight, size_t row, size_t count, bf16* panel) {
  const size_t k = weight_cols(weight);
  [[maybe_unused]] const bool whole = count == kPanel && k % kPackedDepth == 0;
#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
  const Mxfp4View* mxfp4 = std::get_if<Mxfp4View>(&weight);
  if (whole && mxfp4 != nullptr && pack_mxfp4_avx512(*mxfp4, row, panel)) return;
  const Fp8BlockView* fp8 = std::get_if<Fp8BlockView>(&weight);
  if (whole && fp8 != nullptr && pack_fp8_avx512(*fp8, row, panel)) return;
#endif
  thread_local std::vector<bf16> rows;
  if (rows.size() < count * k) rows.resize(count * k);
  read_weight(weight, row, count, rows.data());
#if defined(NIBBLECAST_SIMD) && defined(__x86_64__)
  if (whole) return pack_panel_avx512(rows.data(), k, panel);
#endif
  pack_panel_ref(rows.data(), count, k, panel);
}

}  // namespace

template <>
bool packs_panels<float>() {
  return false;
}

template <>
bool packs_panels<bf16>() {
  return has_bf16_products();
}

template <>
void read_panel(const WeightView& weight, size_t row, size_t count, float* panel) {
  read_weight(weight, row, count, panel);
}

template <>
void read_panel(const WeightView& weight, size_t row, size_t count, bf16* panel) {
  if (packs_panels<bf16>()) return read_packed(weight, row, count, panel);
  read_weight(weight, row, count, panel);
}

void pack_panel_ref(const bf16* rows, size_t count, size_t k, bf16* packed) {
  std::fill_n(packed, panel_size(k), bf16{});
  for (size_t output = 0; output < count; ++output) {
    for (size_t i = 0; i < k; ++i) packed[(i / 2 * kPanel + output) * 2 + i % 2] = rows[output * k + i];
  }
}

}  // namespace nibblecast
