// model/decoder/pass.h - the forward pass of a DecoderSpec (model/decoder_spec.h) over a device D
// (model/decoder/cpu_ops.h): the order of what happens between the calls of a ForwardPass.
#pragma once

#include <cassert>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "model/decoder/attention.h"
#include "model/decoder/checks.h"
#include "model/decoder/delta_net.h"
#include "model/decoder/ffn.h"
#include "model/decoder/head.h"
#include "model/decoder/latent_attention.h"
#include "model/dense_tensors.h"
#include "model/expert_lists.h"
#include "model/forward_pass.h"

namespace nibblecast {

template <class D>
class DecoderPass final : public ForwardPass {
 public:
  using T = typename D::Element;

  DecoderPass(const Model& model, TokenRows rows, const ForwardDevice& where)
      : model_(model),
        spec_(std::get<DecoderSpec>(model.spec)),
        embedding_(decoder_embedding(model)),
        device_(model, std::move(rows), where) {}

  void set_tick(Tick tick) override { device_.set_tick(std::move(tick)); }
  void watch(LayerWatch watch) override { device_.watch(std::move(watch)); }
  void show_in_place() override { device_.show_in_place(); }

  void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) override {
    device_.embed(embedding_, first, count, bytes);
  }
  void resume_at(uint64_t layer) override { layer_ = layer; }
  uint64_t streams_bytes() const override { return device_.tokens() * spec_.hidden * sizeof(T); }
  void set_streams(uint64_t begin, std::span<const std::byte> bytes) override {
    device_.write_residual(begin, bytes);
  }
  void get_streams(uint64_t begin, std::span<std::byte> bytes) const override {
    device_.read_residual(begin, bytes);
  }

  void expect_layer([[maybe_unused]] uint64_t layer, std::span<const Tensor> dense) override {
    assert(layer == layer_);
    device_.expect(dense_, table(), dense, model_.tiles);
  }
  void take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
            const Owner& owner) override {
    std::byte* const to = dense_.take(name, begin, bytes);
    if (to == nullptr) return;
    device_.send(to, bytes);
    device_.keep(owner);
  }

  void set_input_scales(InputScales scales) override { input_scales_ = std::move(scales); }
  std::optional<RoundedBlocks> rounded_blocks() const override { return device_.rounded_blocks(); }
  void measure_second_moments() override {
    if constexpr (D::kHasMoments) {
      device_.measure_moments();
      measures_moments_ = true;
    } else {
      ForwardPass::measure_second_moments();
    }
  }
  void measure_block_amaxes() override {
    if constexpr (D::kHasMoments)
      device_.measure_blocks();
    else
      ForwardPass::measure_block_amaxes();
  }
  TapBlocks block_amaxes() override { return std::move(ended_blocks_); }
  void begin_layer() override {
    next_mlp_ = 0;
    routed_ = false;
    const StoredTensors stored = dense_.stored();
    const DecoderLayer& layer = spec_.layers[layer_];
    device_.begin_weights();
    device_.compute([&] {
      DenseLoader<D> loader(device_, table(), stored, model_.tiles, spec_, input_scales_);
      ffn_ = std::visit([&](const auto& ffn) { return loader.ffn(ffn); }, layer.ffn);
      device_.begin_layer();
      std::visit([&](const auto& mixer) { run_mixer(mixer, loader.mixer(mixer)); }, layer.mixer);
      if (moe() != nullptr) run_router(device_, spec_, *moe(), ffn_);
    });
    if (moe() != nullptr) device_.fetch_routing();
    device_.end_weights();
  }
  void expert(uint64_t mlp, const StoredExpert& weights, const Owner& owner) override {
    assert(mlp == next_mlp_ && mlp < table().mlps());
    check_mlp(model_, layer_, mlp, weights);
    device_.add_mlp(
        mlp, weights, [&] { return moe() == nullptr || routed_ || device_.routing_fetched(); }, run_);
    device_.keep(owner);
    ++next_mlp_;
  }
  void end_layer() override {
    assert(next_mlp_ == table().mlps());
    device_.finish_mlps(run_);
    if (moe() != nullptr) {
      make_lists();
      device_.compute([&] { add_experts(device_, spec_); });
    }
    device_.fetch_findings();
    if constexpr (D::kHasMoments) {
      if (measures_moments_) ended_moments_ = read_moments(table(), layer_, device_.moments());
      ended_blocks_ = read_blocks(table(), device_.blocks());
    }
    ended_ = layer_;
    ended_tokens_ = moe() == nullptr ? std::vector<int64_t>() : lists_.counts();
    ++layer_;
  }
  bool layer_done() const override { return device_.findings_fetched(); }
  LayerAmax layer_amax() override {
    LayerAmax amax =
        read_findings(model_.table.layers[ended_], ended_, device_.findings(), std::move(ended_tokens_));
    amax.second_moments = std::move(ended_moments_);
    return amax;
  }

  void set_wide_head() override {
    if constexpr (std::is_same_v<T, float>)
      wide_head_ = true;
    else
      ForwardPass::set_wide_head();
  }
  void begin_head(LogitsSink sink) override {
    assert(layer_ == model_.layers());
    const StoredTensors stored = dense_.stored();
    device_.begin_weights();
    device_.compute([&] {
      DenseLoader<D> loader(device_, table(), stored, model_.tiles, spec_);
      head_.emplace(device_, spec_, loader.final_norm(), std::move(sink), wide_head_);
    });
    device_.end_weights();
  }
  void head(uint64_t begin, std::span<const std::byte> bytes, const Owner& owner) override {
    head_->add(begin, bytes);
    device_.keep(owner);
  }
  RowLosses row_losses() override { return head_->losses(); }

  DeviceUse device_use() const override { return device_.use(); }

 private:
  const LayerTable& table() const {
    return layer_ == model_.layers() ? model_.table.globals : model_.table.layers[layer_];
  }
  const MoeSpec* moe() const { return std::get_if<MoeSpec>(&spec_.layers[layer_].ffn); }

  void run_mixer(const GqaSpec& gqa, const GqaWeights<D>& weights) {
    run_groups(AttentionBlock<D, GqaProjections<D>>(device_, spec_, score_shape(gqa), weights.norm,
                                                    weights.sinks, weights.o,
                                                    {device_, spec_, gqa, weights}));
  }
  void run_mixer(const MlaSpec& mla, const MlaWeights<D>& weights) {
    run_groups(AttentionBlock<D, MlaProjections<D>>(device_, spec_, score_shape(mla), weights.norm, nullptr,
                                                    weights.o, {device_, spec_, mla, weights}));
  }
  void run_mixer(const DeltaNetSpec& net, const DeltaNetWeights<D>& weights) {
    run_groups(DeltaNetBlock<D>(device_, spec_, net, weights));
  }
  template <class Block>
  void run_groups(Block block) {
    for (const RowGroup& group : device_.groups()) block.run(group);
  }

  // Of the layer in progress; waits for the choices.
  void make_lists() {
    if (routed_) return;
    const RoutingBuffers& routing = device_.routing();
    check_routing(table(), device_.routing_findings());
    device_.show_routing(routing, moe()->router.top);
    lists_.make(routing, device_.tokens(), moe()->router.top, moe()->router.experts);
    device_.send_lists();
    routed_ = true;
  }

  void run_mlp_of_layer(uint64_t mlp, const std::function<GatedMlp<D>()>& load) {
    if (moe() != nullptr) {
      make_lists();
      if (lists_.count(mlp) == 0) return;
      device_.compute([&] { run_expert(device_, spec_, *moe(), ffn_.norm, mlp, lists_, load()); });
      return;
    }
    const MlpSpec& spec = std::get<MlpSpec>(spec_.layers[layer_].ffn);
    device_.compute([&] {
      GatedMlp<D> weights = load();
      weights.gate.bias = ffn_.gate_bias;
      weights.up.bias = ffn_.up_bias;
      weights.down.bias = ffn_.down_bias;
      run_dense_mlp(device_, spec_, spec, ffn_.norm, weights);
    });
  }

  const Model& model_;
  const DecoderSpec& spec_;
  const EmbeddingShape embedding_;
  D device_;
  DenseTensors dense_;
  InputScales input_scales_;  // of the layer
  const RunMlp<D> run_ = [this](uint64_t mlp, const auto& load) { run_mlp_of_layer(mlp, load); };
  std::optional<LogitsHead<D>> head_;  // once it has begun

  uint64_t layer_ = 0;  // the next one, or the one between begin_layer() and end_layer()
  uint64_t next_mlp_ = 0;
  DenseFfnWeights<D> ffn_;
  ExpertLists lists_;
  bool routed_ = false;  // lists_ are of this layer
  uint64_t ended_ = 0;   // the layer of layer_amax()
  std::vector<int64_t> ended_tokens_;
  bool measures_moments_ = false, wide_head_ = false;
  std::map<std::string, std::vector<float>> ended_moments_;
  TapBlocks ended_blocks_;
};

}  // namespace nibblecast
