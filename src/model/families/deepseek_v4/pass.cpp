#include "model/families/deepseek_v4/pass.h"

#include <algorithm>
#include <utility>

#include "model/dense_tensors.h"
#include "model/families/deepseek_v4/forward.h"

namespace nibblecast {

// model/forward_pass_cuda.cpp or model/no_cuda.cpp.
template <class T>
std::unique_ptr<ForwardPass> make_cuda_forward_pass(const DeepseekV4Config& config,
                                                    std::vector<std::vector<int32_t>> rows,
                                                    const ForwardDevice& device);

namespace {

// On the CPU: a layer's dense tensors are collected, then used at once.
template <class T>
class CpuForwardPass : public ForwardPass {
 public:
  CpuForwardPass(const DeepseekV4Config& config, std::vector<std::vector<int32_t>> rows)
      : forward_(config, std::move(rows)) {}

  void set_tick(Tick tick) override { forward_.set_tick(std::move(tick)); }
  std::optional<RoundedBlocks> rounded_blocks() const override { return forward_.rounded_blocks(); }
  void set_input_scales(InputScales scales) override { forward_.set_input_scales(std::move(scales)); }
  void watch(LayerWatch watch) override { forward_.watch(std::move(watch)); }
  void measure_second_moments() override { forward_.measure_second_moments(); }
  void measure_block_amaxes() override { forward_.measure_block_amaxes(); }
  TapBlocks block_amaxes() override { return forward_.block_amaxes(); }
  void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) override {
    forward_.embed(first, count, bytes);
  }
  void resume_at(uint64_t layer) override { resumed_ = std::as_writable_bytes(forward_.resume_at(layer)); }
  uint64_t streams_bytes() const override { return forward_.streams().size_bytes(); }
  void set_streams(uint64_t begin, std::span<const std::byte> bytes) override {
    std::ranges::copy(bytes, resumed_.data() + begin);
  }
  void get_streams(uint64_t begin, std::span<std::byte> bytes) const override {
    std::ranges::copy(std::as_bytes(forward_.streams()).subspan(begin, bytes.size()), bytes.data());
  }

  void expect_layer(uint64_t layer, std::span<const Tensor> dense) override {
    layer_ = layer;
    dense_.expect(dense);
  }
  void take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
            const Owner&) override {
    dense_.take(name, begin, bytes);
  }
  void begin_layer() override { forward_.begin_layer(layer_, dense_.stored()); }
  void expert(uint64_t expert, const StoredExpert& weights, const Owner&) override {
    forward_.expert(expert, weights);
  }
  void end_layer() override { ended_ = forward_.end_layer(); }
  LayerAmax layer_amax() override { return std::move(ended_); }

  void begin_head(LogitsSink sink) override { forward_.begin_head(dense_.stored(), std::move(sink)); }
  void head(uint64_t begin, std::span<const std::byte> bytes, const Owner&) override {
    forward_.head(begin, bytes);
  }
  RowLosses row_losses() override { return forward_.row_losses(); }

 private:
  DeepseekV4Forward<T> forward_;
  uint64_t layer_ = 0;
  DenseTensors dense_;
  std::span<std::byte> resumed_;
  LayerAmax ended_;
};

}  // namespace

template <class T>
std::unique_ptr<ForwardPass> make_deepseek_v4_pass(const DeepseekV4Config& config,
                                                   std::vector<std::vector<int32_t>> rows,
                                                   const ForwardDevice& device) {
  if (device.cuda) return make_cuda_forward_pass<T>(config, std::move(rows), device);
  return std::make_unique<CpuForwardPass<T>>(config, std::move(rows));
}

template std::unique_ptr<ForwardPass> make_deepseek_v4_pass<float>(const DeepseekV4Config&,
                                                                   std::vector<std::vector<int32_t>>,
                                                                   const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_deepseek_v4_pass<bf16>(const DeepseekV4Config&,
                                                                  std::vector<std::vector<int32_t>>,
                                                                  const ForwardDevice&);

}  // namespace nibblecast
