#include "model/families/deepseek_v4/forward.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "formats/nvfp4_input.h"
#include "model/embedding.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/head.h"
#include "model/families/deepseek_v4/state.h"
#include "model/families/deepseek_v4/tensors.h"
#include "ops/rmsnorm.h"

namespace nibblecast {

template <class T>
void ForwardState<T>::check(const std::string& name, const Amax& input) const {
  check_input(module(name), input.value());
}

template <class T>
void ForwardState<T>::record(const char* tap, const std::string& name, const Amax& input) {
  check(name, input);
  amax.taps[tap] = {input.value()};
}

template <class T>
void ForwardState<T>::end_moments(const char* tap, size_t width) {
  if (!measures_moments) return;
  std::vector<float> own = moments[tap].means();
  own.resize(width);  // without tokens: 0
  moments.erase(tap);
  std::vector<float>& all = amax.second_moments[tap];
  all.insert(all.end(), own.begin(), own.end());
}

template <class T>
void ForwardState<T>::show(LayerPart part, size_t first, size_t count, const T* y) const {
  if (!watch.part) return;
  std::vector<float> values(count * config.hidden_size);
  for (size_t i = 0; i < values.size(); ++i) values[i] = to_float(y[i]);
  watch.part(part, first, count, config.hidden_size, {.f32 = values.data()});
}

template <class T>
void round_inputs(ForwardState<T>& state, const T* x, size_t rows, size_t width, float input_scale, T* y) {
  parallel_for(rows, [&](size_t row) {
    state.rounded_blocks.add(width / 16,
                             round_nvfp4_input(x + row * width, width, input_scale, y + row * width));
  });
}

template <class T>
void mix_and_norm(const ForwardState<T>& state, const HyperConnection& hyper, const std::vector<float>& norm,
                  size_t first, size_t count, T* x, StreamMix* mixes, Amax& seen) {
  const size_t width = state.config.hidden_size, stride = state.config.hc_mult * width;
  thread_local std::vector<float> mixed;
  mixed.resize(kHyperRows * width);
  mix_streams(hyper, state.streams.data() + first * stride, count, mixed.data(), mixes);
  for (size_t token = 0; token < count; ++token) {
    rmsnorm(mixed.data() + token * width, width, norm.data(), static_cast<float>(state.config.rms_norm_eps),
            x + token * width);
  }
  seen.add(amax(x, count * width));
}

template <class T>
void spread(ForwardState<T>& state, const StreamMix& mix, size_t token, const T* y, Amax& seen) {
  const size_t width = state.config.hidden_size, streams = state.config.hc_mult;
  T* to = state.streams.data() + token * streams * width;
  spread_to_streams(mix, y, streams, width, to);
  seen.add(amax(to, streams * width));
}

template <class T>
struct DeepseekV4Forward<T>::State : ForwardState<T> {
  std::optional<Head<T>> head;  // once it has begun
};

template <class T>
DeepseekV4Forward<T>::DeepseekV4Forward(const DeepseekV4Config& config,
                                        std::vector<std::vector<int32_t>> rows)
    : state_(std::make_unique<State>()) {
  check_forward_config(config);
  state_->config = config;
  TokenRows laid_out(config.vocab_size, rows);
  state_->rows = std::move(laid_out.rows);
  state_->ids = std::move(laid_out.ids);
  state_->positions = std::move(laid_out.positions);
  state_->sliding_rope = make_rope(config.rope, config.qk_rope_head_dim, laid_out.longest);
  state_->compress_rope = make_rope(config.compress_rope, config.qk_rope_head_dim, laid_out.longest);
  state_->streams.resize(state_->tokens() * config.hc_mult * config.hidden_size);
}

template <class T>
DeepseekV4Forward<T>::~DeepseekV4Forward() = default;

template <class T>
std::vector<std::string> DeepseekV4Forward<T>::dense_tensor_names(const DeepseekV4Config& config,
                                                                  uint64_t layer) {
  if (layer == config.num_hidden_layers) return head_tensor_names();
  std::vector<std::string> names;
  for (const ModelTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.storage == Storage::kExpert) continue;
    if (tensor.storage == Storage::kFp8Block) {
      names.push_back(tensor.name + ".weight");
      names.push_back(tensor.name + ".scale");
    } else {
      names.push_back(tensor.name);
    }
  }
  return names;
}

template <class T>
uint64_t DeepseekV4Forward<T>::memory_bytes(const DeepseekV4Config& config, uint64_t tokens,
                                            uint64_t longest_row, size_t threads) {
  const uint64_t width = config.hidden_size, inner = config.moe_intermediate_size;
  const uint64_t streams = tokens * config.hc_mult * width * sizeof(T);
  const uint64_t per_token = width * (sizeof(T) + sizeof(float)) + sizeof(StreamMix) + 8 +
                             config.num_experts_per_tok * sizeof(int32_t);
  const uint64_t ropes = 2 * longest_row * config.qk_rope_head_dim * sizeof(float);
  const uint64_t shared = 3 * width * inner * 5 / 4;  // codes, and scales of one FP32 number for 16 at most
  // Threads keep the scratch of both halves.
  return streams + tokens * per_token + ropes + shared +
         attention_bytes<T>(config, tokens, longest_row, threads) + ffn_bytes<T>(config, tokens, threads) +
         Head<T>::memory_bytes(config, tokens, threads);
}

template <class T>
void DeepseekV4Forward<T>::set_tick(std::function<void(double done)> tick) {
  state_->tick = std::move(tick);
}

template <class T>
RoundedBlocks DeepseekV4Forward<T>::rounded_blocks() const {
  return state_->rounded_blocks.value();
}

template <class T>
void DeepseekV4Forward<T>::set_input_scales(InputScales scales) {
  state_->input_scales = std::move(scales);
}

template <class T>
void DeepseekV4Forward<T>::watch(LayerWatch watch) {
  state_->watch = std::move(watch);
}

template <class T>
void DeepseekV4Forward<T>::measure_second_moments() {
  state_->measures_moments = true;
}

template <class T>
void DeepseekV4Forward<T>::measure_block_amaxes() {
  state_->measures_blocks = true;
}

template <class T>
TapBlocks DeepseekV4Forward<T>::block_amaxes() {
  return std::move(state_->blocks);
}

template <class T>
void DeepseekV4Forward<T>::embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) {
  State& state = *state_;
  const EmbeddingShape shape = embedding_shape(state.config);
  check_embedding_rows<bf16>(shape, first, count, bytes);
  check_embedding(shape.name, embed_tokens(shape, state.ids, first, count, bytes, state.streams.data()));
  state.embedded += count;
}

template <class T>
std::span<T> DeepseekV4Forward<T>::resume_at(uint64_t layer) {
  State& state = *state_;
  assert(!state.in_layer && layer <= state.config.num_hidden_layers);
  state.layer = layer;
  state.embedded = state.config.vocab_size;
  return state.streams;
}

template <class T>
void DeepseekV4Forward<T>::begin_layer(uint64_t layer, const StoredTensors& dense) {
  State& state = *state_;
  assert(!state.in_layer && layer == state.layer && state.embedded == state.config.vocab_size);
  const AttentionWeights attention = attention_weights(state.config, layer, dense);
  const FfnWeights ffn = ffn_weights(state.config, layer, dense);
  state.in_layer = true;
  state.next_expert = 0;
  state.amax = {};
  state.amax.layer = layer;
  state.blocks.clear();
  run_attention<T>(state, attention);
  run_router<T>(state, ffn);
}

template <class T>
void DeepseekV4Forward<T>::expert(uint64_t expert, const StoredExpert& weights) {
  State& state = *state_;
  assert(state.in_layer && expert == state.next_expert && expert < state.config.n_routed_experts);
  check_expert(state.config, state.layer, expert, weights);
  run_expert<T>(state, expert, {weights.w1, weights.w2, weights.w3, weights.in_scale, weights.mid_scale});
  ++state.next_expert;
}

template <class T>
LayerAmax DeepseekV4Forward<T>::end_layer() {
  State& state = *state_;
  assert(state.in_layer && state.next_expert == state.config.n_routed_experts);
  finish_ffn<T>(state);
  state.in_layer = false;
  for (const auto& [tap, moments] : state.moments) state.amax.second_moments[tap] = moments.means();
  state.moments.clear();
  for (const auto& [tap, moments] : state.amax.second_moments) check_moments(state.layer, tap, moments);
  ++state.layer;
  return std::move(state.amax);
}

template <class T>
std::span<const T> DeepseekV4Forward<T>::streams() const {
  return state_->streams;
}

template <class T>
std::span<const int32_t> DeepseekV4Forward<T>::chosen_experts() const {
  return state_->chosen;
}

template <class T>
void DeepseekV4Forward<T>::begin_head(const StoredTensors& tensors, LogitsSink sink) {
  assert(!state_->in_layer && state_->layer == state_->config.num_hidden_layers);
  state_->head.emplace(*state_, head_weights(state_->config, tensors), std::move(sink));
}

template <class T>
void DeepseekV4Forward<T>::head(uint64_t begin, std::span<const std::byte> bytes) {
  state_->head->add(begin, bytes);
}

template <class T>
RowLosses DeepseekV4Forward<T>::row_losses() const {
  return state_->head->losses();
}

template struct ForwardState<float>;
template struct ForwardState<bf16>;
template void round_inputs(ForwardState<float>&, const float*, size_t, size_t, float, float*);
template void round_inputs(ForwardState<bf16>&, const bf16*, size_t, size_t, float, bf16*);
template void mix_and_norm(const ForwardState<float>&, const HyperConnection&, const std::vector<float>&,
                           size_t, size_t, float*, StreamMix*, Amax&);
template void mix_and_norm(const ForwardState<bf16>&, const HyperConnection&, const std::vector<float>&,
                           size_t, size_t, bf16*, StreamMix*, Amax&);
template void spread(ForwardState<float>&, const StreamMix&, size_t, const float*, Amax&);
template void spread(ForwardState<bf16>&, const StreamMix&, size_t, const bf16*, Amax&);
template class DeepseekV4Forward<float>;
template class DeepseekV4Forward<bf16>;

}  // namespace nibblecast
