// model/stored.h - weights on their way into a forward pass, as the checkpoint stores them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/tensor.h"
#include "formats/stored_linear.h"
#include "weights/container.h"

namespace nibblecast {

// A tensor as stored, in memory that the caller keeps alive during the call it is passed to.
struct StoredTensor {
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::span<const std::byte> bytes;  // may be unaligned
};
// By full name ("layers.3.attn.wq_a.weight", "layers.3.attn.wq_a.scale").
using StoredTensors = std::unordered_map<std::string, StoredTensor>;

// An MLP's weights in any format: a routed expert's, or a dense layer's only one. Without a gate w1 is empty.
struct StoredExpert {
  StoredLinear w1, w2, w3;  // gate [I, D], down [D, I], up [I, D]
  // What the inputs of gate and up, and of down, are rounded with (formats/nvfp4_input.h); 0: they are not.
  float in_scale = 0, mid_scale = 0;
};

// Looks tensors up and hands them out in the form that a forward pass wants. Each refuses (kBadInput, naming
// the tensor) what is missing or not of this shape.
class StoredReader {
 public:
  StoredReader(const StoredTensors& stored, const TileSize& tiles) : stored_(stored), tiles_(tiles) {}

  // In any container (weights/container.h); a view into the caller's bytes.
  StoredLinear linear(const std::string& module, size_t rows, size_t cols) const;
  // BF16, F16 or F32, as FP32.
  std::vector<float> floats(const std::string& name, const Shape& shape) const;
  // I64 or I32.
  std::vector<int64_t> integers(const std::string& name, const Shape& shape) const;

 private:
  const StoredTensor& find(const std::string& name, std::initializer_list<Dtype> dtypes,
                           const Shape& shape) const;

  const StoredTensors& stored_;
  const TileSize tiles_;
};

// f(pointer, size in bytes) for each part of a weight: codes, then scales. The pointer may be changed.
template <class F>
void for_parts(StoredLinear& weight, const F& f) {
  std::visit(
      [&](auto& view) {
        using View = std::decay_t<decltype(view)>;
        if constexpr (std::is_same_v<View, Bf16View> || std::is_same_v<View, F16View>) {
          f(view.values, view.rows * view.cols * 2);
        } else if constexpr (std::is_same_v<View, F32View>) {
          f(view.values, view.rows * view.cols * 4);
        } else if constexpr (std::is_same_v<View, Fp8BlockView>) {
          const size_t tiles = ((view.rows + view.tile_rows - 1) / view.tile_rows) *
                               ((view.cols + view.tile_cols - 1) / view.tile_cols);
          f(view.codes, view.rows * view.cols);
          f(view.scales, tiles * scale_bytes(view.scale_type));
        } else if constexpr (std::is_same_v<View, Mxfp4View>) {
          f(view.codes, view.rows * view.cols / 2);
          f(view.scales, view.rows * view.cols / 32);
        } else if constexpr (std::is_same_v<View, Int4View>) {
          f(view.codes, view.rows * view.cols / 2);
          f(view.scales, view.rows * (view.cols / view.group) * scale_bytes(view.scale_type));
        } else {
          f(view.codes, view.rows * view.cols / 2);
          f(view.block_scales, view.rows * view.cols / 16);
        }
      },
      weight);
}

}  // namespace nibblecast
