// model/families/deepseek_v4/forward_cuda.h - DeepSeek-V4's forward pass on a CUDA device: the numbers of forward.h
// within the rounding of its products and of p in attention, which are summed in another order. Only in
// builds with CUDA.
//
// Weights cross the bus as they are stored and are dequantized on the device. Copies run ahead of the
// computation as far as there are slots, from one layer into the next; the host waits only for room: for the
// routing where no slot is free, and for copies of the owners that it keeps. Results are the same in every
// run, with any device memory: everything that is divided is divided by fixed numbers.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/forward_pass.h"

namespace nibblecast {

template <class T>
class CudaForwardState;

template <class T>
class DeepseekV4CudaForward : public ForwardPass {
 public:
  DeepseekV4CudaForward(const DeepseekV4Config& config, std::vector<std::vector<int32_t>> rows,
                        const ForwardDevice& device);
  ~DeepseekV4CudaForward() override;

  void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) override;
  void resume_at(uint64_t layer) override;
  uint64_t streams_bytes() const override;
  void set_streams(uint64_t begin, std::span<const std::byte> bytes) override;
  void get_streams(uint64_t begin, std::span<std::byte> bytes) const override;
  void expect_layer(uint64_t layer, std::span<const Tensor> dense) override;
  void take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
            const Owner& owner) override;
  void set_input_scales(InputScales scales) override;
  void watch(LayerWatch watch) override;
  void show_in_place() override;
  void begin_layer() override;
  void expert(uint64_t expert, const StoredExpert& weights, const Owner& owner) override;
  void end_layer() override;
  bool layer_done() const override;
  LayerAmax layer_amax() override;
  void begin_head(LogitsSink sink) override;
  void head(uint64_t begin, std::span<const std::byte> bytes, const Owner& owner) override;
  RowLosses row_losses() override;
  DeviceUse device_use() const override;

  // As DeepseekV4Forward has it, for tests.
  std::span<const int32_t> chosen_experts() const;  // after layer_amax()

 private:
  struct Flow;

  std::unique_ptr<Flow> flow_;
};

}  // namespace nibblecast
