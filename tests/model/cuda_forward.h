// tests/model/cuda_forward.h - the forward pass on a CUDA device, with the calls of DeepseekV4Forward, for
// the suites that run on both.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda_testing.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/forward_cuda.h"

namespace nibblecast::testing {

template <class T>
class CudaForward {
 public:
  CudaForward(const DeepseekV4Config& config, std::vector<std::vector<int32_t>> rows,
              uint64_t device_memory = 0)
      : layers_(config.num_hidden_layers), forward_(config, std::move(rows), device(device_memory)) {}

  static std::vector<std::string> dense_tensor_names(const DeepseekV4Config& config, uint64_t layer) {
    return DeepseekV4Forward<T>::dense_tensor_names(config, layer);
  }

  void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) {
    forward_.embed(first, count, bytes);
  }
  void resume_at(uint64_t layer, std::span<const std::byte> streams) {
    forward_.resume_at(layer);
    forward_.set_streams(0, streams);
  }
  void begin_layer(uint64_t layer, const StoredTensors& dense) {
    expect(layer, dense);
    forward_.begin_layer();
  }
  void begin_head(const StoredTensors& tensors, LogitsSink sink) {
    expect(layers_, tensors);
    forward_.begin_head(std::move(sink));
  }
  void head(uint64_t begin, std::span<const std::byte> bytes) { forward_.head(begin, bytes, nullptr); }
  RowLosses row_losses() { return forward_.row_losses(); }
  void expert(uint64_t expert, const StoredExpert& weights) { forward_.expert(expert, weights, nullptr); }
  LayerAmax end_layer() {
    forward_.end_layer();
    return forward_.layer_amax();
  }

  std::span<const T> streams() {
    streams_.resize(forward_.streams_bytes() / sizeof(T));
    forward_.get_streams(0, std::as_writable_bytes(std::span(streams_)));
    return streams_;
  }
  std::span<const int32_t> chosen_experts() const { return forward_.chosen_experts(); }

 private:
  // Each tensor in two pieces, as a caller that streams would.
  void expect(uint64_t layer, const StoredTensors& dense) {
    std::vector<Tensor> tensors;
    for (const auto& [name, tensor] : dense) {
      tensors.push_back(
          {.name = name, .dtype = tensor.dtype, .shape = tensor.shape, .size_bytes = tensor.bytes.size()});
    }
    forward_.expect_layer(layer, tensors);
    for (const auto& [name, tensor] : dense) {
      const size_t first = tensor.bytes.size() / 3;
      forward_.take(name, 0, tensor.bytes.first(first), nullptr);
      forward_.take(name, first, tensor.bytes.subspan(first), nullptr);
    }
  }

  static ForwardDevice device(uint64_t memory) {
    ForwardDevice device;
    device.cuda = find_cuda_devices().usable.at(0).ordinal;
    device.memory_bytes = memory;
    return device;
  }
  const uint64_t layers_;
  DeepseekV4CudaForward<T> forward_;
  std::vector<T> streams_;
};

struct CudaDevicePass {
  template <class T>
  using Forward = CudaForward<T>;
};

}  // namespace nibblecast::testing
