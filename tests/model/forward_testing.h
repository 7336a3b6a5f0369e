// tests/model/forward_testing.h - runs the forward pass over a checkpoint folder, and reads the oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "logits_keeper.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/tensors.h"
#include "testing.h"

namespace nibblecast::testing {

// Tensors of one safetensors file.
class TensorFile {
 public:
  explicit TensorFile(const std::filesystem::path& path)
      : file_(system_files().open(path, Access::kRead)), header_(read_safetensors_header(*file_)) {}

  template <class V>
  std::vector<V> read(const std::string& name) const {
    for (const Tensor& tensor : header_.tensors) {
      if (tensor.name != name) continue;
      std::vector<V> values(tensor.size_bytes / sizeof(V));
      file_->read(tensor.offset, std::as_writable_bytes(std::span(values)));
      return values;
    }
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  // [rows, length] token ids.
  std::vector<std::vector<int32_t>> rows(const std::string& name, size_t length, size_t count) const {
    const std::vector<int32_t> ids = read<int32_t>(name);
    std::vector<std::vector<int32_t>> rows;
    for (size_t row = 0; row < count; ++row) {
      rows.emplace_back(ids.begin() + static_cast<ptrdiff_t>(row * length),
                        ids.begin() + static_cast<ptrdiff_t>((row + 1) * length));
    }
    return rows;
  }

 private:
  std::unique_ptr<File> file_;
  SafetensorsHeader header_;
};

// Stored tensors with the bytes they point to.
struct HeldTensors {
  std::vector<std::vector<std::byte>> bytes;
  StoredTensors tensors;

  void add(TensorReader& reader, const Tensor& tensor) {
    bytes.push_back(reader.read(tensor));
    tensors[tensor.name] = {tensor.dtype, tensor.shape, bytes.back()};
  }
};

class Model {
 public:
  explicit Model(const std::filesystem::path& folder)
      : checkpoint_(Checkpoint::open(folder, system_files())),
        reader_(checkpoint_),
        config_(DeepseekV4Config::parse(checkpoint_.config(), "config.json")) {}

  const DeepseekV4Config& config() const { return config_; }

  HeldTensors held(const std::vector<std::string>& names) {
    HeldTensors held;
    for (const std::string& name : names) held.add(reader_, checkpoint_.at(name));
    return held;
  }

  // Forward: DeepseekV4Forward<T>, or a class with its calls.
  template <class Forward>
  void embed(Forward& forward) {
    const std::vector<std::byte> bytes = reader_.read(checkpoint_.at("embed.weight"));
    // In two pieces, as a caller that streams would.
    const uint64_t first = config_.vocab_size / 3, row_bytes = config_.hidden_size * 2;
    forward.embed(0, first, std::span(bytes).first(first * row_bytes));
    forward.embed(first, config_.vocab_size - first, std::span(bytes).subspan(first * row_bytes));
  }

  template <class Forward>
  LayerAmax run_layer(Forward& forward, uint64_t layer) {
    const HeldTensors dense = held(Forward::dense_tensor_names(config_, layer));
    forward.begin_layer(layer, dense.tensors);
    for (uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      HeldTensors weights;
      StoredExpert stored;
      StoredLinear* views[] = {&stored.w1, &stored.w2, &stored.w3};
      for (int projection = 1; projection <= 3; ++projection) {
        const std::string module = expert_module(layer, expert, projection);
        const Tensor& codes = checkpoint_.at(module + ".weight");
        weights.add(reader_, codes);
        weights.add(reader_, checkpoint_.at(module + ".scale"));
        *views[projection - 1] =
            Mxfp4View{reinterpret_cast<const uint8_t*>(weights.tensors[module + ".weight"].bytes.data()),
                      reinterpret_cast<const uint8_t*>(weights.tensors[module + ".scale"].bytes.data()),
                      codes.shape[0], codes.shape[1] * 2};
      }
      forward.expert(expert, stored);
    }
    return forward.end_layer();
  }

  // The head, after all layers; its weight in pieces that end in the middle of a row.
  template <class Forward>
  RowLosses run_head(Forward& forward, LogitsSink sink = {}) {
    forward.begin_head(held(head_tensor_names()).tensors, std::move(sink));
    const std::vector<std::byte> bytes = reader_.read(checkpoint_.at(kHeadWeight));
    const size_t piece = 333'333;
    for (size_t begin = 0; begin < bytes.size(); begin += piece)
      forward.head(begin, std::span(bytes).subspan(begin, std::min(piece, bytes.size() - begin)));
    return forward.row_losses();
  }

  // All layers; after each, f(layer, its amax).
  template <class Forward>
  void run(
      Forward& forward,
      const std::function<void(uint64_t, const LayerAmax&)>& f = [](uint64_t, const LayerAmax&) {}) {
    embed(forward);
    for (uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) f(layer, run_layer(forward, layer));
  }

 private:
  Checkpoint checkpoint_;
  TensorReader reader_;
  DeepseekV4Config config_;
};

// For suites that run on every device.
struct CpuPass {
  template <class T>
  using Forward = DeepseekV4Forward<T>;
};

}  // namespace nibblecast::testing
