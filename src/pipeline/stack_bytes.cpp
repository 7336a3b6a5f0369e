#include "pipeline/stack_bytes.h"

#include <algorithm>
#include <cstring>

#include "base/parallel.h"

namespace nibblecast {

void transpose_stack(std::span<std::byte> bytes, uint64_t count, uint64_t rows, uint64_t element_bytes) {
  if (bytes.empty()) return;
  constexpr uint64_t kTile = 64;  // rows and columns that stay in a processor's cache
  const uint64_t matrix_bytes = bytes.size() / count, cols = matrix_bytes / (rows * element_bytes);
  parallel_for(count, [&](size_t matrix) {
    std::byte* const to = bytes.data() + matrix * matrix_bytes;
    const std::vector<std::byte> from(to, to + matrix_bytes);
    for (uint64_t row_tile = 0; row_tile < rows; row_tile += kTile) {
      for (uint64_t col_tile = 0; col_tile < cols; col_tile += kTile) {
        for (uint64_t row = row_tile; row < std::min(rows, row_tile + kTile); ++row) {
          for (uint64_t col = col_tile; col < std::min(cols, col_tile + kTile); ++col)
            std::memcpy(to + (col * rows + row) * element_bytes,
                        from.data() + (row * cols + col) * element_bytes, element_bytes);
        }
      }
    }
  });
}

// The output's shape is [matrices, columns, rows].
void to_output(const Plan& plan, const PlannedLinear& linear, uint32_t tensor, std::span<std::byte> bytes) {
  const Tensor& out = plan.tensors[tensor].out;
  if (linear.stack != 0 && out.shape.size() == 3)
    transpose_stack(bytes, linear.stack, out.shape[2], dtype_bytes(out.dtype));
}

StoredLinear by_rows(const PlannedLinear& linear, const StoredLinear& source, std::vector<std::byte>& held) {
  if (linear.stack == 0) return source;
  return std::visit(
      [&](const auto& view) -> StoredLinear {
        if constexpr (kIsPlainView<std::decay_t<decltype(view)>>) {
          const LinearFormat& format = linear.source.format;
          const auto* const from = static_cast<const std::byte*>(view.values);
          held.assign(from, from + format.weight_bytes(0, view.rows).size);
          transpose_stack(held, linear.stack, view.cols, format.weight_bytes(0, 1).size / view.cols);
          return format.view(view.rows, held.data(), nullptr, {});
        } else {
          return view;
        }
      },
      source);
}

void from_output(const Plan& plan, const PlannedLinear& linear, uint32_t tensor, std::span<std::byte> bytes) {
  const Tensor& out = plan.tensors[tensor].out;
  if (linear.stack != 0 && out.shape.size() == 3)
    transpose_stack(bytes, linear.stack, out.shape[1], dtype_bytes(out.dtype));
}

}  // namespace nibblecast
