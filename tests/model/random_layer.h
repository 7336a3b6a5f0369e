// tests/model/random_layer.h - one layer's weights at random, in memory, for tests and benchmarks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/tensors.h"

namespace nibblecast::testing {

// Scaled so that a product keeps its input's size, and a forward pass stays finite.
struct RandomLayer {
  std::mt19937_64 generator{1};
  std::list<std::vector<std::byte>> bytes;
  StoredTensors dense;
  std::vector<StoredExpert> experts;

  std::span<const std::byte> keep(std::vector<std::byte> held) { return bytes.emplace_back(std::move(held)); }
  void add(const std::string& name, Dtype dtype, const Shape& shape, std::vector<std::byte> held) {
    dense[name] = {dtype, shape, keep(std::move(held))};
  }

  std::vector<std::byte> random_bytes(size_t count) {
    std::vector<std::byte> result((count + 7) / 8 * 8);
    for (size_t i = 0; i < result.size(); i += 8) {
      const uint64_t word = generator();
      std::memcpy(result.data() + i, &word, 8);
    }
    result.resize(count);
    return result;
  }
  // Normal, standard deviation 1 / sqrt(cols); ones where cols is 1 (norm weights and the like).
  std::vector<std::byte> values(Dtype dtype, size_t count, size_t cols) {
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(cols)));
    std::vector<std::byte> result(count * dtype_bytes(dtype));
    for (size_t i = 0; i < count; ++i) {
      const float value = cols == 1 ? 1.0f : normal(generator);
      const bf16 rounded = to_bf16(value);
      if (dtype == Dtype::kF32)
        std::memcpy(result.data() + i * 4, &value, 4);
      else
        std::memcpy(result.data() + i * 2, &rounded, 2);
    }
    return result;
  }
  // E8M0 bytes all alike, that bring codes of this root mean square to 1 / sqrt(cols).
  static std::vector<std::byte> scales(size_t count, size_t cols, double code_size) {
    const long exponent = std::lround(-std::log2(std::sqrt(static_cast<double>(cols)) * code_size));
    return std::vector<std::byte>(count, std::byte(127 + exponent));
  }

  void add_fp8(const ModelTensor& tensor, size_t tile_rows, size_t tile_cols) {
    const uint64_t rows = tensor.shape[0], cols = tensor.shape[1];
    std::vector<std::byte> codes = random_bytes(rows * cols);
    for (std::byte& code : codes) {
      if ((code & std::byte{0x7f}) == std::byte{0x7f}) code = std::byte{0};  // NaN
    }
    add(tensor.name + ".weight", Dtype::kF8E4M3, {rows, cols}, std::move(codes));
    const Shape tiles = {(rows + tile_rows - 1) / tile_rows, (cols + tile_cols - 1) / tile_cols};
    add(tensor.name + ".scale", Dtype::kF8E8M0, tiles, scales(tiles[0] * tiles[1], cols, 118));
  }
  void add_token_table(const ModelTensor& tensor, uint64_t experts_count) {
    std::vector<std::byte> table(*element_count(tensor.shape) * 8);
    for (uint64_t id = 0; id < tensor.shape[0]; ++id) {
      for (uint64_t i = 0; i < tensor.shape[1]; ++i) {
        const uint64_t expert = (id * 7 + i) % experts_count;
        std::memcpy(table.data() + (id * tensor.shape[1] + i) * 8, &expert, 8);
      }
    }
    add(tensor.name, Dtype::kI64, tensor.shape, std::move(table));
  }
  Mxfp4View mxfp4(uint64_t rows, uint64_t cols) {
    const auto codes = keep(random_bytes(rows * cols / 2)), scale = keep(scales(rows * cols / 32, cols, 2.9));
    return {reinterpret_cast<const uint8_t*>(codes.data()), reinterpret_cast<const uint8_t*>(scale.data()),
            rows, cols};
  }
};

inline RandomLayer random_layer(const DeepseekV4Config& config, uint64_t number, size_t distinct_experts) {
  RandomLayer layer;
  layer.generator.seed(number + 1);
  for (const ModelTensor& tensor : layer_tensors(config, number)) {
    const uint64_t cols = tensor.shape.size() == 2 ? tensor.shape[1] : 1,
                   count = *element_count(tensor.shape);
    if (tensor.storage == Storage::kFp8Block) layer.add_fp8(tensor, config.tile_rows, config.tile_cols);
    if (tensor.storage == Storage::kI64) layer.add_token_table(tensor, config.n_routed_experts);
    if (tensor.storage == Storage::kBF16) {
      layer.add(tensor.name, Dtype::kBF16, tensor.shape, layer.values(Dtype::kBF16, count, cols));
    }
    if (tensor.storage == Storage::kF32) {
      layer.add(tensor.name, Dtype::kF32, tensor.shape, layer.values(Dtype::kF32, count, cols));
    }
  }
  for (size_t i = 0; i < distinct_experts; ++i) {
    StoredExpert expert;
    expert.w1 = layer.mxfp4(config.moe_intermediate_size, config.hidden_size);
    expert.w2 = layer.mxfp4(config.hidden_size, config.moe_intermediate_size);
    expert.w3 = layer.mxfp4(config.moe_intermediate_size, config.hidden_size);
    layer.experts.push_back(expert);
  }
  return layer;
}

// `dense` holds what the head takes, head.weight included.
inline RandomLayer random_head(const DeepseekV4Config& config) {
  RandomLayer head;
  head.generator.seed(1000);
  for (const ModelTensor& tensor : global_tensors(config)) {
    if (tensor.name == "embed.weight") continue;
    const Dtype dtype = tensor.storage == Storage::kF32 ? Dtype::kF32 : Dtype::kBF16;
    const uint64_t cols = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    head.add(tensor.name, dtype, tensor.shape, head.values(dtype, *element_count(tensor.shape), cols));
  }
  return head;
}

// begin_head() to row_losses(), head.weight in pieces of `piece` bytes.
template <class Forward>
RowLosses run_head(Forward& forward, const RandomLayer& head, size_t piece, LogitsSink sink = {}) {
  StoredTensors before;
  for (const std::string& name : head_tensor_names()) before[name] = head.dense.at(name);
  forward.begin_head(before, std::move(sink));
  const auto bytes = head.dense.at(kHeadWeight).bytes;
  for (size_t begin = 0; begin < bytes.size(); begin += piece)
    forward.head(begin, bytes.subspan(begin, std::min(piece, bytes.size() - begin)));
  return forward.row_losses();
}

}  // namespace nibblecast::testing
