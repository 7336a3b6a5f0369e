#include "model/families/deepseek_v4/forward_cuda.h"

#include <algorithm>
#include <cassert>
#include <optional>
#include <utility>

#include "base/cuda_owners.h"
#include "model/cuda_slots.h"
#include "model/dense_tensors.h"
#include "model/embedding.h"
#include "model/families/deepseek_v4/checks.h"
#include "model/families/deepseek_v4/cuda_dense.h"
#include "model/families/deepseek_v4/cuda_findings.h"
#include "model/families/deepseek_v4/cuda_head.h"
#include "model/families/deepseek_v4/cuda_routing.h"
#include "model/families/deepseek_v4/cuda_state.h"
#include "ops/rows_cuda.h"

namespace nibblecast {
namespace {

constexpr size_t kEmbeddingBytes = 64 << 20;  // on the device at once

}  // namespace

template <class T>
struct DeepseekV4CudaForward<T>::Flow {
  Flow(const DeepseekV4Config& config, const TokenRows& rows, const ForwardDevice& device)
      : state(config, rows, device),
        routing(rows.ids.size(), config.n_routed_experts, config.num_experts_per_tok),
        slots(state.slot_block.data(), state.memory.slots, state.memory.slot_bytes, state.copying,
              state.computing),
        findings(state.findings_at),
        owners(device.held_owners) {}

  void begin_layer() {
    const StoredTensors stored = dense.stored();
    const AttentionWeights attention = attention_weights(state.config, state.layer, stored);
    const FfnWeights ffn = ffn_weights(state.config, state.layer, stored);
    dense_copied.record(state.copying);
    state.computing.wait(dense_copied);
    fill_async(state.computing, state.tokens->findings, 0, state.findings_at.count() * sizeof(uint32_t));
    state.compute_clock.time(state.computing, [&] {
      const CudaLayerWeights<T> weights = load_weights(state, attention, ffn);
      for (const CudaGroup& group : state.groups) {
        T* const streams = state.load_streams(group.rows.begin, group.rows.tokens, state.attention->streams);
        run_attention(state, weights.attention, group, streams);
        run_router(state, weights.ffn, group, streams);
        state.store_streams(group.rows.begin, group.rows.tokens, streams);
      }
      routing.fetch(state);
      run_shared_expert(state, weights.ffn.shared);
    });
    dense_used.record(state.computing);
  }

  void add_expert(uint64_t expert, const StoredExpert& weights) {
    const auto send = [&](std::byte* to, const std::byte* from, uint64_t size_bytes) {
      state.copy_clock.time(state.copying, [&] { state.send(to, from, size_bytes); });
    };
    slots.add(
        expert, weights, send, [&] { return routing.fetched(); }, run_sent);
  }

  void end_layer() {
    slots.finish(run_sent);
    if (state.watch.routing) state.watch.routing(routing.chosen());
    state.compute_clock.time(state.computing, [&] { finish_ffn(state); });
    findings.fetch(state, routing);
    ++state.layer;
  }

  void note_use() {
    state.use.upload_seconds += state.copy_clock.take_seconds();
    state.use.compute_seconds += state.compute_clock.take_seconds();
    if (!state.device.profile) return;
    for (size_t part = 0; part < state.clocks.size(); ++part)
      state.use.parts[kPartNames[part]] += state.clocks[part].take_seconds();
  }

  CudaForwardState<T> state;
  DenseTensors dense;
  CudaRouting routing;
  CudaSlots slots;
  const CudaSlots::Compute run_sent = [this](uint64_t expert, const StoredExpert& sent, CudaEvent& used) {
    if (!routing.ready()) routing.make_lists(state);
    state.compute_clock.time(state.computing, [&] {
      run_expert(state, expert, sent, routing.begin(expert), routing.count(expert), used);
    });
  };
  CudaLayerFindings findings;
  std::optional<CudaHead<T>> head;  // once it has begun
  CudaOwners owners;                // destroyed first: waits for copies
  CudaEvent dense_copied, dense_used;
  uint64_t embedded = 0;  // rows of the embedding that were seen
  uint64_t next_expert = 0;
};

template <class T>
DeepseekV4CudaForward<T>::DeepseekV4CudaForward(const DeepseekV4Config& config,
                                                std::vector<std::vector<int32_t>> rows,
                                                const ForwardDevice& device) {
  check_forward_config(config);
  check_cuda_config(config);
  use_cuda_device(device.cuda.value());
  flow_ = std::make_unique<Flow>(config, TokenRows(config.vocab_size, rows), device);
}

template <class T>
DeepseekV4CudaForward<T>::~DeepseekV4CudaForward() = default;

template <class T>
void DeepseekV4CudaForward<T>::embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) {
  CudaForwardState<T>& state = flow_->state;
  const EmbeddingShape shape = embedding_shape(state.config);
  check_embedding_rows<bf16>(shape, first, count, bytes);
  flow_->embedded += count;
  if (!state.memory.streams_resident) {
    T* const streams = reinterpret_cast<T*>(state.host_streams.data());
    check_embedding(shape.name, embed_tokens(shape, state.ids, first, count, bytes, streams));
    return;
  }
  const size_t width = state.config.hidden_size, row_bytes = width * sizeof(bf16);
  const uint64_t most = std::max<uint64_t>(1, std::min(kEmbeddingBytes, state.work_block.size()) / row_bytes);
  const bf16* const piece = reinterpret_cast<const bf16*>(state.work_block.data());
  for (uint64_t done = 0; done < count; done += most) {
    const uint64_t rows = std::min(most, count - done);
    copy_async(state.computing, state.work_block.data(), bytes.data() + done * row_bytes, rows * row_bytes);
    embed_cuda(state.computing, piece, first + done, rows, state.tokens->ids, state.token_count(),
               state.config.hc_mult, width, reinterpret_cast<T*>(state.streams_block.data()),
               state.finding(CudaFindings::kEmbedding));
  }
  float largest = 0;
  copy_async(state.computing, &largest, state.finding(CudaFindings::kEmbedding), sizeof largest);
  state.computing.synchronize();
  check_embedding(shape.name, largest);
}

template <class T>
void DeepseekV4CudaForward<T>::resume_at(uint64_t layer) {
  flow_->state.layer = layer;
  flow_->embedded = flow_->state.config.vocab_size;
}

template <class T>
uint64_t DeepseekV4CudaForward<T>::streams_bytes() const {
  return flow_->state.memory.streams_bytes;
}

template <class T>
void DeepseekV4CudaForward<T>::set_streams(uint64_t begin, std::span<const std::byte> bytes) {
  CudaForwardState<T>& state = flow_->state;
  std::byte* const streams =
      state.memory.streams_resident ? state.streams_block.data() : state.host_streams.data();
  copy_async(state.computing, streams + begin, bytes.data(), bytes.size());
  state.computing.synchronize();
}

template <class T>
void DeepseekV4CudaForward<T>::get_streams(uint64_t begin, std::span<std::byte> bytes) const {
  const CudaForwardState<T>& state = flow_->state;
  const std::byte* const streams =
      state.memory.streams_resident ? state.streams_block.data() : state.host_streams.data();
  copy_async(state.computing, bytes.data(), streams + begin, bytes.size());
  state.computing.synchronize();
}

template <class T>
void DeepseekV4CudaForward<T>::expect_layer([[maybe_unused]] uint64_t layer, std::span<const Tensor> dense) {
  assert(layer == flow_->state.layer && flow_->embedded == flow_->state.config.vocab_size);
  flow_->state.copying.wait(flow_->dense_used);
  Arena arena(flow_->state.stored_block.data());
  flow_->dense.expect(dense, arena, stays_on_device);
  assert(arena.size_bytes() <= flow_->state.stored_block.size());
}

template <class T>
void DeepseekV4CudaForward<T>::take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
                                    const Owner& owner) {
  std::byte* const to = flow_->dense.take(name, begin, bytes);
  if (to == nullptr) return;
  CudaForwardState<T>& state = flow_->state;
  state.copy_clock.time(state.copying, [&] { state.send(to, bytes.data(), bytes.size()); });
  flow_->owners.add(state.copying, owner);
}

template <class T>
void DeepseekV4CudaForward<T>::begin_layer() {
  flow_->next_expert = 0;
  flow_->begin_layer();
}

template <class T>
void DeepseekV4CudaForward<T>::set_input_scales(InputScales scales) {
  flow_->state.input_scales = std::move(scales);
}

template <class T>
void DeepseekV4CudaForward<T>::watch(LayerWatch watch) {
  flow_->state.watch = std::move(watch);
}

template <class T>
void DeepseekV4CudaForward<T>::show_in_place() {
  flow_->state.show_in_place = true;
}

template <class T>
void DeepseekV4CudaForward<T>::expert(uint64_t expert, const StoredExpert& weights, const Owner& owner) {
  assert(expert == flow_->next_expert && expert < flow_->state.config.n_routed_experts);
  check_expert(flow_->state.config, flow_->state.layer, expert, weights);
  flow_->add_expert(expert, weights);
  flow_->owners.add(flow_->state.copying, owner);
  ++flow_->next_expert;
}

template <class T>
void DeepseekV4CudaForward<T>::end_layer() {
  assert(flow_->next_expert == flow_->state.config.n_routed_experts);
  flow_->end_layer();
}

template <class T>
bool DeepseekV4CudaForward<T>::layer_done() const {
  return flow_->findings.fetched();
}

template <class T>
LayerAmax DeepseekV4CudaForward<T>::layer_amax() {
  LayerAmax amax = flow_->findings.layer_amax();
  flow_->note_use();
  return amax;
}

template <class T>
void DeepseekV4CudaForward<T>::begin_head(LogitsSink sink) {
  CudaForwardState<T>& state = flow_->state;
  assert(state.layer == state.config.num_hidden_layers);
  flow_->head.emplace(state, head_weights(state.config, flow_->dense.stored()), std::move(sink));
}

template <class T>
void DeepseekV4CudaForward<T>::head(uint64_t begin, std::span<const std::byte> bytes, const Owner& owner) {
  flow_->head->add(begin, bytes);
  flow_->owners.add(flow_->state.copying, owner);
}

template <class T>
RowLosses DeepseekV4CudaForward<T>::row_losses() {
  RowLosses losses = flow_->head->losses();
  flow_->note_use();
  return losses;
}

template <class T>
DeviceUse DeepseekV4CudaForward<T>::device_use() const {
  return flow_->state.use;
}

template <class T>
std::span<const int32_t> DeepseekV4CudaForward<T>::chosen_experts() const {
  return flow_->routing.chosen();
}

template class DeepseekV4CudaForward<float>;
template class DeepseekV4CudaForward<bf16>;

}  // namespace nibblecast
