// model/families/deepseek_v4/forward.h - DeepSeek-V4's forward pass over calibration rows, one layer at a
// time, the weights of a layer handed in as they are stored. Reference: the official inference/model.py,
// current revision, without its simulated FP8/FP4 rounding of activations, KV and indexer. T is the compute
// dtype: bf16 (FP32 accumulation; activations rounded to BF16 where they enter a product or are kept, and
// once over a chain of element-wise steps, where the reference rounds after each) or float (no rounding).
//
// Order of calls, per layer: begin_layer(), expert() for every routed expert in ascending order, end_layer().
// Results do not depend on the number of threads. One object, one caller; it uses all threads itself.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/activation_amax.h"
#include "model/families/deepseek_v4/config.h"
#include "model/forward_pass.h"
#include "model/logits.h"
#include "model/stored.h"

namespace nibblecast {

template <class T>
class DeepseekV4Forward {
 public:
  // `rows`: token ids, each row its own sequence; ids are checked against vocab_size (kBadInput).
  DeepseekV4Forward(const DeepseekV4Config& config, std::vector<std::vector<int32_t>> rows);
  ~DeepseekV4Forward();

  // Which tensors begin_layer() needs (dense ones: everything of the layer but routed experts), full names;
  // of "layer" num_hidden_layers, begin_head().
  static std::vector<std::string> dense_tensor_names(const DeepseekV4Config& config, uint64_t layer);
  // Peak bytes of memory this object takes for `tokens` tokens in rows of at most `longest_row`, beyond the
  // stored tensors handed in. An upper bound that `plan` prints and that a run never exceeds.
  static uint64_t memory_bytes(const DeepseekV4Config& config, uint64_t tokens, uint64_t longest_row,
                               size_t threads);

  // Called within begin_layer(), expert() and end_layer() with the part of the call that is done.
  void set_tick(std::function<void(double done)> tick);
  // As those of ForwardPass.
  void set_input_scales(InputScales scales);
  RoundedBlocks rounded_blocks() const;
  void watch(LayerWatch watch);
  void measure_second_moments();
  void measure_block_amaxes();
  TapBlocks block_amaxes();

  // Rows [first, first + count) of embed.weight (BF16 [V, D]) in `bytes`; call until all V were seen.
  void embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes);

  // Instead of embed(): goes on with `layer`. The caller fills what is returned with the bytes of the streams
  // that enter it, as streams() gave them.
  std::span<T> resume_at(uint64_t layer);

  // Attention, hyper-connections, router of layer `layer` for all rows. Keeps copies (dequantized) of what
  // expert() and end_layer() need; `dense` may be freed on return.
  void begin_layer(uint64_t layer, const StoredTensors& dense);
  void expert(uint64_t expert, const StoredExpert& weights);
  // Shared expert, hyper-connection; afterwards the streams are those that enter the next layer.
  LayerAmax end_layer();

  // Streams after the last finished layer: [tokens, hc_mult, D], rows one after the other.
  std::span<const T> streams() const;

  // Experts of each token in the layer begun last: [tokens, num_experts_per_tok].
  std::span<const int32_t> chosen_experts() const;

  // After the last layer: what the rows' tokens say of each other. begin_head(); head() with the bytes of
  // head.weight (BF16 [V, D]) from its first to its last, cut anywhere; row_losses(). `sink` may be empty.
  void begin_head(const StoredTensors& tensors, LogitsSink sink);
  void head(uint64_t begin, std::span<const std::byte> bytes);
  RowLosses row_losses() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibblecast
