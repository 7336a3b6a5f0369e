// ops/linear.h - y = x · Wᵀ for weights as they are stored, panel by panel: a panel of kPanel outputs is
// dequantized into a thread's scratch and multiplied at once with many rows, so that no whole dequantized
// matrix exists.
//
// Panels and blocks of rows have fixed sizes and every tile is one thread's product (ops/matmul.h): results
// do not depend on threads, and a row's result does not depend on the other rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/parallel.h"
#include "ops/matmul.h"
#include "ops/panel.h"
#include "ops/round.h"
#include "ops/weight.h"
#include "ops/workspace.h"

namespace nibblecast {

inline constexpr size_t kPanelRows = 2048;  // rows that one dequantized panel serves

// Part of a product: outputs [col, col + cols) of rows [row, row + rows).
struct Tile {
  size_t row = 0, rows = 0, col = 0, cols = 0;
  size_t stride = 0;  // floats between the rows of its sums
};

struct Outputs {
  size_t first = 0, count = 0;
};

// What a thread keeps between calls, whatever it calls for.
template <class T>
struct LinearScratch {
  Workspace<T> panels;
  Workspace<float> sums;
};

template <class T>
LinearScratch<T>& linear_scratch() {
  thread_local LinearScratch<T> scratch;
  return scratch;
}

// Bytes that one thread holds for linears of N weights of at most `k` inputs: panels, one of them as plain
// rows before it is packed, sums, and ops/matmul.h's.
template <class T>
size_t linear_scratch_bytes(size_t n, size_t k) {
  return (n + 1) * panel_size(k) * sizeof(T) + n * kTileRows * kPanel * sizeof(float) +
         matmul_scratch_bytes<T>(kPanel, k);
}

// Outputs `outputs` of N weights of equal shape with the same input x [rows, in] (row stride `x_stride`).
// f(tile, y): y[i] is the tile of weight i, [tile.rows, tile.cols] F32, rows tile.stride apart; tile.col
// counts from outputs.first. f is called from several threads at once, for disjoint tiles.
template <class T, size_t N, class F>
void linears(const T* x, size_t rows, size_t x_stride, const std::array<WeightView, N>& weights,
             Outputs outputs, const F& f) {
  const size_t k = weight_cols(weights[0]);
  const size_t panels = (outputs.count + kPanel - 1) / kPanel;
  const size_t groups = (rows + kPanelRows - 1) / kPanelRows;
  parallel_for(panels * groups, [&](size_t task) {
    const size_t col = task % panels * kPanel, cols = std::min(kPanel, outputs.count - col);
    const size_t begin = task / panels * kPanelRows, end = std::min(rows, begin + kPanelRows);
    LinearScratch<T>& own = linear_scratch<T>();
    T* panel = own.panels.take(N * panel_size(k));
    float* sums = own.sums.take(N * kTileRows * kPanel);
    for (size_t i = 0; i < N; ++i) {
      read_panel(weights[i], outputs.first + col, cols, panel + i * panel_size(k));
    }
    const bool packed = packs_panels<T>();
    std::array<const float*, N> y;
    for (size_t row = begin; row < end; row += kTileRows) {
      const TileShape shape{.m = std::min(kTileRows, end - row),
                            .n = packed ? kPanel : cols,
                            .k = k,
                            .layout = packed ? WeightLayout::kPacked : WeightLayout::kOutputMajor};
      for (size_t i = 0; i < N; ++i) {
        float* out = sums + i * kTileRows * kPanel;
        matmul_tile(shape, x + row * x_stride, x_stride, panel + i * panel_size(k), k, out);
        y[i] = out;
      }
      f(Tile{row, shape.m, col, cols, shape.n}, y);
    }
  });
}

// y[row, col] of one weight's outputs, rounded to Out, rows `y_stride` apart.
template <class T, class Out>
void linear(const T* x, size_t rows, size_t x_stride, const WeightView& weight, Outputs outputs, Out* y,
            size_t y_stride) {
  linears<T, 1>(
      x, rows, x_stride, {weight}, outputs, [&](const Tile& tile, const std::array<const float*, 1>& sums) {
        round_rows(sums[0], tile.stride, tile.rows, tile.cols, y + tile.row * y_stride + tile.col, y_stride);
      });
}

// All outputs, rows contiguous on both sides.
template <class T, class Out>
void linear(const T* x, size_t rows, const WeightView& weight, Out* y) {
  const size_t out = weight_rows(weight);
  linear(x, rows, weight_cols(weight), weight, {0, out}, y, out);
}

// The same plus bias [out], before the rounding.
template <class T, class Out>
void biased_linear(const T* x, size_t rows, const WeightView& weight, const float* bias, Out* y) {
  const size_t out = weight_rows(weight);
  linears<T, 1>(x, rows, weight_cols(weight), {weight}, {0, out},
                [&](const Tile& tile, const std::array<const float*, 1>& sums) {
                  round_biased_rows(sums[0], tile.stride, tile.rows, tile.cols, bias + tile.col,
                                    y + tile.row * out + tile.col, out);
                });
}

}  // namespace nibblecast
