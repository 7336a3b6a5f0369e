// ops/panel.h - kPanel outputs of a weight in the form in which matmul_tile takes them fastest.
//
// Where BF16 products run on BF16 instructions that form is oneDNN's blocked layout BA16a64b2a, into which
// weights are dequantized at once; kernels then read it as it is, whatever the number of rows:
//
//   packed[k / 32][k % 32 / 2][output][k % 2],  outputs padded to kPanel and k to a multiple of 32 with zeros
//
// Elsewhere it is plain rows [outputs, k].
#pragma once

#include <cstddef>

#include "formats/bf16.h"
#include "ops/weight.h"

namespace nibblecast {

inline constexpr size_t kPanel = 64;  // 0.9 MB of BF16 for 7,168 inputs
inline constexpr size_t kPackedDepth = 32;

// Whether panels of T are packed on this CPU with this cpu_isa().
template <class T>
bool packs_panels();

// Elements of T of a panel with `k` inputs, in either form.
constexpr size_t panel_size(size_t k) {
  return kPanel * ((k + kPackedDepth - 1) / kPackedDepth * kPackedDepth);
}

// Outputs [row, row + count), count <= kPanel, of a weight to `panel` [panel_size(cols)], packed if
// packs_panels<T>().
template <class T>
void read_panel(const WeightView& weight, size_t row, size_t count, T* panel);

// The layout by its definition: rows [count, k] -> packed.
void pack_panel_ref(const bf16* rows, size_t count, size_t k, bf16* packed);

}  // namespace nibblecast
