#include "model/deepseek_v4_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "base/error.h"
#include "formats/stored_linear_cuda.h"
#include "model/deepseek_v4_checks.h"
#include "model/deepseek_v4_cuda_state.h"
#include "model/deepseek_v4_embedding.h"
#include "model/deepseek_v4_tensors.h"
#include "ops/rows_cuda.h"

namespace nibblecast {
namespace {

constexpr size_t kEmbeddingBytes = 64 << 20;  // on the device at once

// Weights that products take stay on the device as stored; small tensors are looked at by the host first.
bool stays_on_device(const Tensor& tensor) {
  const bool matrix = tensor.shape.size() == 2;
  return matrix && (tensor.dtype == Dtype::kF8E4M3 || tensor.dtype == Dtype::kF8E8M0 ||
                    tensor.dtype == Dtype::kBF16 || tensor.name.ends_with(".scale"));
}

// The dense tensors of a layer, as they come.
class DenseTensors {
 public:
  void expect(std::span<const Tensor> tensors, DeviceBuffer& block) {
    held_.clear();
    Arena arena(block.data());
    for (const Tensor& tensor : tensors) {
      Held& held = held_[tensor.name];
      held.tensor = tensor;
      if (stays_on_device(tensor))
        held.device = arena.take<std::byte>(tensor.size_bytes);
      else
        held.host.resize(tensor.size_bytes);
    }
    assert(arena.size_bytes() <= block.size());
  }
  // Where the bytes of `name` go on the device; null: they were kept here.
  std::byte* take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes) {
    Held& held = held_.at(name);
    assert(begin + bytes.size() <= held.tensor.size_bytes);
    if (held.device != nullptr) return held.device + begin;
    if (!bytes.empty()) std::memcpy(held.host.data() + begin, bytes.data(), bytes.size());
    return nullptr;
  }
  // Device memory for some, host memory for others.
  StoredTensors stored() const {
    StoredTensors stored;
    for (const auto& [name, held] : held_) {
      const std::byte* const bytes = held.device != nullptr ? held.device : held.host.data();
      stored[name] = {held.tensor.dtype, held.tensor.shape, {bytes, held.tensor.size_bytes}};
    }
    return stored;
  }

 private:
  struct Held {
    Tensor tensor;
    std::byte* device = nullptr;
    std::vector<std::byte> host;
  };
  std::unordered_map<std::string, Held> held_;
};

// Brings a layer's weights into the form in which kernels take them.
template <class T>
class WeightLoader {
 public:
  explicit WeightLoader(CudaForwardState<T>& state)
      : state_(state),
        host_(state.host_vectors.data()),
        vectors_(state.vector_block.data()),
        weights_(state.weight_block.data()) {}

  CudaAttentionWeights<T> load(const AttentionWeights& from) {
    CudaAttentionWeights<T> to{.hyper = hyper(from.hyper),
                               .attn_norm = vector(from.attn_norm),
                               .q_norm = vector(from.q_norm),
                               .kv_norm = vector(from.kv_norm),
                               .sinks = vector(from.sinks)};
    if (from.compressor) to.compressor = compressor(*from.compressor);
    if (from.indexer) to.index_compressor = compressor(from.indexer->compressor);
    send_vectors();
    split(to.hyper, from.hyper);
    to.wq_a = matrix(from.wq_a);
    to.wq_b = matrix(from.wq_b);
    to.wkv = matrix(from.wkv);
    to.wo_a = matrix(from.wo_a);
    to.wo_b = matrix(from.wo_b);
    if (from.compressor) read(*from.compressor, *to.compressor);
    if (from.indexer) {
      read(from.indexer->compressor, *to.index_compressor);
      to.index_wq_b = matrix(from.indexer->wq_b);
      to.index_weights = matrix(from.indexer->weights_proj);
    }
    return to;
  }

  CudaFfnWeights<T> load(const FfnWeights& from) {
    const DeepseekV4Config& config = state_.config;
    CudaFfnWeights<T> to{.hyper = hyper(from.hyper), .ffn_norm = vector(from.ffn_norm)};
    to.router = {.experts = static_cast<uint32_t>(config.n_routed_experts),
                 .top = static_cast<uint32_t>(config.num_experts_per_tok),
                 .scaling = static_cast<float>(config.routed_scaling_factor),
                 .bias = from.bias.empty() ? nullptr : vector(from.bias),
                 .tid2eid = from.tid2eid.empty() ? nullptr : vector(from.tid2eid)};
    to.shared = from.shared;
    send_vectors();
    split(to.hyper, from.hyper);
    to.gate = matrix(from.gate);
    return to;
  }

 private:
  // To the staging memory; the device's address of what send_vectors() will bring there.
  template <class V>
  const V* vector(const std::vector<V>& values) {
    V* const host = host_.take<V>(values.size());
    std::copy(values.begin(), values.end(), host);
    return vectors_.take<V>(values.size());
  }
  void send_vectors() {
    const uint64_t end = host_.mark();
    copy_async(state_.computing, state_.vector_block.data() + sent_, state_.host_vectors.data() + sent_,
               end - sent_);
    sent_ = end;
  }

  CudaHyper<T> hyper(const HyperConnection& from) {
    CudaHyper<T> to;
    to.view = {.streams = static_cast<uint32_t>(from.streams),
               .width = static_cast<uint32_t>(from.width),
               .sinkhorn_iterations = static_cast<uint32_t>(from.sinkhorn_iterations),
               .eps = from.eps,
               .norm_eps = from.norm_eps,
               .base = vector(from.base),
               .scale = vector(from.scale)};
    fn_ = vector(from.fn);
    return to;
  }
  void split(CudaHyper<T>& to, const HyperConnection& from) {
    T* const parts = weights_.take<T>(kFnParts<T> * from.fn.size());
    split_fn_cuda(state_.computing, fn_, from.fn.size(), parts);
    to.fn = parts;
  }

  CudaCompressor compressor(const CompressorWeights& from) {
    CudaCompressor to;
    to.view = {.shape = from.shape,
               .ape = vector(from.ape),
               .norm = vector(from.norm),
               .eps = static_cast<float>(state_.config.rms_norm_eps),
               .rope = state_.compress_rope};
    return to;
  }
  void read(const CompressorWeights& from, CudaCompressor& to) {
    to.wkv = matrix(from.wkv);
    to.wgate = matrix(from.wgate);
  }

  // In T; as stored, where that is T.
  const T* matrix(const StoredLinear& stored) {
    if constexpr (std::is_same_v<T, bf16>) {
      if (const auto* view = std::get_if<Bf16View>(&stored)) return static_cast<const bf16*>(view->values);
    }
    const size_t rows = rows_of(stored), cols = cols_of(stored);
    T* const to = weights_.take<T>(rows * cols);
    state_.timed(Part::kDequantize,
                 [&] { dequantize_rows_cuda(state_.computing, stored, 0, rows, to, cols); });
    return to;
  }

  CudaForwardState<T>& state_;
  Arena host_, vectors_, weights_;
  uint64_t sent_ = 0;
  const float* fn_ = nullptr;
};

// Which tokens go to which expert, as lists of tokens ascending; from every token's choice.
class Routing {
 public:
  Routing(size_t tokens, size_t experts, size_t top)
      : tokens_(tokens), top_(top), begin_(experts + 1), next_(experts) {
    Arena counting;
    lay_out(counting);
    block_ = pinned_buffer(counting.size_bytes());
    Arena arena(block_.data());
    lay_out(arena);
  }

  template <class T>
  void fetch(CudaForwardState<T>& state) {
    const CudaTokens<T>& from = *state.tokens;
    copy_async(state.computing, chosen_, from.chosen, tokens_ * top_ * sizeof(int32_t));
    copy_async(state.computing, weights_, from.chosen_weights, tokens_ * top_ * sizeof(float));
    copy_async(state.computing, &faults_[0], state.finding(CudaFindings::kNanScore), sizeof(RouterFaults));
    fetched_.record(state.computing);
    ready_ = false;
  }
  bool fetched() const { return fetched_.done(); }
  bool ready() const { return ready_; }

  template <class T>
  void make_lists(CudaForwardState<T>& state) {
    fetched_.synchronize();
    check_faults(state);
    std::fill(begin_.begin(), begin_.end(), 0);
    for (size_t i = 0; i < tokens_ * top_; ++i) ++begin_[static_cast<size_t>(chosen_[i]) + 1];
    for (size_t expert = 1; expert < begin_.size(); ++expert) begin_[expert] += begin_[expert - 1];
    std::copy(begin_.begin(), begin_.end() - 1, next_.begin());
    for (size_t i = 0; i < tokens_ * top_; ++i) {
      const size_t at = next_[static_cast<size_t>(chosen_[i])]++;
      list_tokens_[at] = static_cast<uint32_t>(i / top_);
      list_weights_[at] = weights_[i];
    }
    copy_async(state.computing, state.tokens->list_tokens, list_tokens_, tokens_ * top_ * sizeof(uint32_t));
    copy_async(state.computing, state.tokens->list_weights, list_weights_, tokens_ * top_ * sizeof(float));
    ready_ = true;
  }

  size_t begin(size_t expert) const { return begin_[expert]; }
  size_t count(size_t expert) const { return begin_[expert + 1] - begin_[expert]; }
  std::span<const int32_t> chosen() const { return {chosen_, tokens_ * top_}; }

 private:
  void lay_out(Arena& arena) {
    chosen_ = arena.take<int32_t>(tokens_ * top_);
    weights_ = arena.take<float>(tokens_ * top_);
    list_tokens_ = arena.take<uint32_t>(tokens_ * top_);
    list_weights_ = arena.take<float>(tokens_ * top_);
    faults_ = arena.take<RouterFaults>(1);
  }

  template <class T>
  void check_faults(const CudaForwardState<T>& state) const {
    if (faults_->nan_score != 0) refuse_nan_score(state.module("ffn.gate"));
    if (faults_->unknown_expert == 0) return;
    for (size_t i = 0; i < tokens_ * top_; ++i) {
      if (chosen_[i] < 0 || static_cast<size_t>(chosen_[i]) >= next_.size())
        refuse_expert(state.module("ffn.gate.tid2eid"), next_.size(), chosen_[i], state.ids[i / top_]);
    }
  }

  const size_t tokens_, top_;
  std::vector<size_t> begin_, next_;
  Buffer block_;
  int32_t* chosen_ = nullptr;
  float* weights_ = nullptr;
  uint32_t* list_tokens_ = nullptr;
  float* list_weights_ = nullptr;
  RouterFaults* faults_ = nullptr;
  CudaEvent fetched_;
  bool ready_ = false;
};

// Owners of bytes that are on their way to the device.
class HeldOwners {
 public:
  explicit HeldOwners(size_t most) : most_(most) {}
  ~HeldOwners() {
    // What is being copied must not be freed: on the way out of an error too.
    for (Held& held : held_) {
      try {
        held.copied.synchronize();
      } catch (const Error&) {
      }
    }
  }
  // After copies on `stream` from the owner's bytes. Without an owner, or room, waits for them.
  void add(CudaStreamHandle stream, const ForwardPass::Owner& owner) {
    if (!held_.empty() && owner != nullptr && held_.back().owner == owner) {
      held_.back().copied.record(stream);
    } else {
      held_.push_back({take_event(), owner});
      held_.back().copied.record(stream);
    }
    const size_t most = owner == nullptr ? 0 : most_;
    while (!held_.empty() && (held_.size() > most || held_.front().copied.done())) release();
  }
  void release_all() {
    while (!held_.empty()) release();
  }

 private:
  struct Held {
    CudaEvent copied;
    ForwardPass::Owner owner;
  };
  CudaEvent take_event() {
    if (idle_.empty()) return CudaEvent();
    CudaEvent event = std::move(idle_.back());
    idle_.pop_back();
    return event;
  }
  void release() {
    held_.front().copied.synchronize();
    idle_.push_back(std::move(held_.front().copied));
    held_.pop_front();
  }

  const size_t most_;
  std::deque<Held> held_;
  std::vector<CudaEvent> idle_;
};

}  // namespace

// The flow of weights through the device.
template <class T>
struct DeepseekV4CudaForward<T>::Flow {
  Flow(const DeepseekV4Config& config, const TokenRows& rows, const ForwardDevice& device)
      : state(config, rows, device),
        routing(rows.ids.size(), config.n_routed_experts, config.num_experts_per_tok),
        held(device.held_owners),
        slots(state.memory.slots),
        host_findings(pinned_buffer(state.findings_at.count() * sizeof(uint32_t))) {
    fill_async(state.computing, state.tokens->findings, 0, state.findings_at.count() * sizeof(uint32_t));
    state.computing.synchronize();
  }

  // An expert that was sent to the device and not yet computed.
  struct Waiting {
    uint64_t expert = 0;
    size_t slot = 0;
    StoredExpert weights;
  };
  struct Slot {
    CudaEvent copied, dequantized;
  };

  // Sends `bytes` to the device, on the stream of copies.
  void send(std::byte* to, const void* from, uint64_t size_bytes) {
    copy_async(state.copying, to, from, size_bytes);
    state.use.uploaded_bytes += size_bytes;
  }

  // The expert's bytes into a slot, its views there: in one copy where they lie side by side.
  StoredExpert send(const StoredExpert& weights, std::byte* slot) {
    StoredExpert sent = weights;
    std::vector<std::span<const std::byte>> pieces;
    for_pieces(sent, [&](auto& at, uint64_t size) {
      pieces.emplace_back(reinterpret_cast<const std::byte*>(at), size);
    });
    const auto begin_of = [](const auto& piece) { return piece.data(); };
    const auto end_of = [](const auto& piece) { return piece.data() + piece.size(); };
    const std::byte* const first = begin_of(*std::ranges::min_element(pieces, {}, begin_of));
    const std::byte* const last = end_of(*std::ranges::max_element(pieces, {}, end_of));
    // The first weight goes where accesses are widest; the others lie multiples of their rows from it.
    const uint64_t before = static_cast<uint64_t>(pieces[0].data() - first);
    const uint64_t shift = round_up(before, Arena::kAlignment) - before;
    const uint64_t size_bytes = static_cast<uint64_t>(last - first);
    const bool at_once = shift + size_bytes <= state.memory.slot_bytes;
    if (at_once) send(slot + shift, first, size_bytes);
    Arena arena(slot);
    size_t piece = 0;
    for_pieces(sent, [&](auto& at, uint64_t size) {
      const std::byte* const from = pieces[piece++].data();
      std::byte* const to = at_once ? slot + shift + (from - first) : arena.take<std::byte>(size);
      if (!at_once) send(to, from, size);
      at = reinterpret_cast<std::decay_t<decltype(at)>>(to);
    });
    assert(arena.size_bytes() <= state.memory.slot_bytes);
    return sent;
  }

  // f(pointer, size in bytes) for codes and scales of w1, w2 and w3.
  template <class F>
  static void for_pieces(StoredExpert& expert, const F& f) {
    for (StoredLinear* linear : {&expert.w1, &expert.w2, &expert.w3}) {
      if (auto* mxfp4 = std::get_if<Mxfp4View>(linear)) {
        f(mxfp4->codes, mxfp4->rows * mxfp4->cols / 2);
        f(mxfp4->scales, mxfp4->rows * mxfp4->cols / 32);
        continue;
      }
      auto& fp8 = std::get<Fp8BlockView>(*linear);
      const uint64_t tiles =
          (fp8.rows + fp8.tile_rows - 1) / fp8.tile_rows * ((fp8.cols + fp8.tile_cols - 1) / fp8.tile_cols);
      f(fp8.codes, fp8.rows * fp8.cols);
      f(fp8.scales, tiles * (fp8.scale_type == ScaleType::kF32 ? sizeof(float) : 1));
    }
  }

  void send_expert(uint64_t number, const StoredExpert& weights, const Owner& owner) {
    if (waiting.size() == slots.size()) compute_waiting();
    const size_t slot = next_slot;
    next_slot = (next_slot + 1) % slots.size();
    state.copying.wait(slots[slot].dequantized);
    Waiting sent{.expert = number, .slot = slot, .weights = {}};
    state.copy_clock.time(state.copying, [&] {
      sent.weights = send(weights, state.slot_block.data() + slot * state.memory.slot_bytes);
    });
    slots[slot].copied.record(state.copying);
    held.add(state.copying, owner);
    waiting.push_back(std::move(sent));
    if (routing.ready() || routing.fetched()) compute_waiting();
  }

  void compute_waiting() {
    if (!routing.ready()) routing.make_lists(state);
    for (; !waiting.empty(); waiting.pop_front()) {
      const Waiting& next = waiting.front();
      state.computing.wait(slots[next.slot].copied);
      state.compute_clock.time(state.computing, [&] {
        run_expert(state, next.expert, next.weights, routing.begin(next.expert), routing.count(next.expert),
                   slots[next.slot].dequantized);
      });
    }
  }

  void begin_layer() {
    const StoredTensors stored = dense.stored();
    const AttentionWeights attention = attention_weights(state.config, state.layer, stored);
    const FfnWeights ffn = ffn_weights(state.config, state.layer, stored);
    dense_copied.record(state.copying);
    state.computing.wait(dense_copied);
    fill_async(state.computing, state.tokens->findings, 0, state.findings_at.count() * sizeof(uint32_t));
    state.compute_clock.time(state.computing, [&] {
      WeightLoader<T> loader(state);
      const CudaAttentionWeights<T> attention_loaded = loader.load(attention);
      const CudaFfnWeights<T> ffn_loaded = loader.load(ffn);
      for (const CudaGroup& group : state.groups) {
        T* const streams = state.load_streams(group.rows.begin, group.rows.tokens, state.attention->streams);
        run_attention(state, attention_loaded, group, streams);
        run_router(state, ffn_loaded, group, streams);
        state.store_streams(group.rows.begin, group.rows.tokens, streams);
      }
      routing.fetch(state);
      run_shared_expert(state, ffn_loaded.shared);
    });
  }

  LayerAmax end_layer() {
    compute_waiting();
    state.compute_clock.time(state.computing, [&] { finish_ffn(state); });
    copy_async(state.computing, host_findings.data(), state.tokens->findings, host_findings.size());
    state.computing.synchronize();
    held.release_all();
    note_use();
    return layer_amax();
  }

  void note_use() {
    state.use.upload_seconds += state.copy_clock.take_seconds();
    state.use.compute_seconds += state.compute_clock.take_seconds();
    if (!state.device.profile) return;
    for (size_t part = 0; part < state.clocks.size(); ++part)
      state.use.parts[kPartNames[part]] += state.clocks[part].take_seconds();
  }

  float finding(size_t index) const {
    uint32_t bits = 0;
    std::memcpy(&bits, host_findings.data() + index * sizeof bits, sizeof bits);
    return std::bit_cast<float>(bits);
  }

  LayerAmax layer_amax() const {
    LayerAmax amax;
    amax.layer = state.layer;
    const uint64_t ratio = state.config.compress_ratios[state.layer];
    const auto record = [&](const std::string& name, size_t index) {
      const std::string module = state.module(name);
      check_input(module, finding(index));
      amax.linears[module] = finding(index);
    };
    if (std::bit_cast<uint32_t>(finding(CudaFindings::kNanEntry)) != 0)
      refuse_nan_entry(state.module("attn.indexer"));
    for (const char* name : {"attn.wq_a", "attn.wkv"}) record(name, CudaFindings::kAttentionX);
    record("attn.wq_b", CudaFindings::kQueriesRank);
    if (ratio != 0) {
      for (const char* name : {"attn.compressor.wkv", "attn.compressor.wgate"})
        record(name, CudaFindings::kAttentionX);
    }
    if (ratio == 4) {
      record("attn.indexer.wq_b", CudaFindings::kQueriesRank);
      for (const char* name :
           {"attn.indexer.weights_proj", "attn.indexer.compressor.wkv", "attn.indexer.compressor.wgate"}) {
        record(name, CudaFindings::kAttentionX);
      }
    }
    record("attn.wo_a", CudaFindings::kAttentionOut);
    record("attn.wo_b", CudaFindings::kOutRank);
    check_streams(state.module("hc_attn"), finding(CudaFindings::kAttentionStreams));
    for (const char* name : {"ffn.gate", "ffn.shared_experts.w1", "ffn.shared_experts.w3"})
      record(name, CudaFindings::kFfnX);
    record_experts(amax.experts);
    record("ffn.shared_experts.w2", CudaFindings::kSharedAct);
    check_streams(state.module("hc_ffn"), finding(CudaFindings::kFfnStreams));
    return amax;
  }

  void record_experts(ExpertAmax& experts) const {
    for (size_t expert = 0; expert < state.config.n_routed_experts; ++expert) {
      const std::string name = state.module("ffn.experts." + std::to_string(expert));
      const float w13 = finding(state.findings_at.w13(expert)), w2 = finding(state.findings_at.w2(expert)),
                  weighted = finding(state.findings_at.w2_weighted(expert));
      check_input(name + ".w1", w13);
      check_input(name + ".w2", w2);
      check_input(name + ".w2", weighted);
      experts.w13.push_back(w13);
      experts.w2.push_back(w2);
      experts.w2_weighted.push_back(weighted);
      experts.tokens.push_back(static_cast<int64_t>(routing.count(expert)));
    }
  }

  CudaForwardState<T> state;
  DenseTensors dense;
  Routing routing;
  HeldOwners held;
  std::vector<Slot> slots;
  size_t next_slot = 0;
  std::deque<Waiting> waiting;
  CudaEvent dense_copied;
  Buffer host_findings;
  uint64_t embedded = 0;
  uint64_t next_expert = 0;
};

template <class T>
DeepseekV4CudaForward<T>::DeepseekV4CudaForward(const DeepseekV4Config& config,
                                                std::vector<std::vector<int32_t>> rows,
                                                const ForwardDevice& device) {
  check_forward_config(config);
  use_cuda_device(device.cuda.value());
  flow_ = std::make_unique<Flow>(config, TokenRows(config, rows), device);
}

template <class T>
DeepseekV4CudaForward<T>::~DeepseekV4CudaForward() = default;

template <class T>
void DeepseekV4CudaForward<T>::embed(uint64_t first, uint64_t count, std::span<const std::byte> bytes) {
  CudaForwardState<T>& state = flow_->state;
  check_embedding_rows(state.config, first, count, bytes);
  flow_->embedded += count;
  if (!state.memory.streams_resident) {
    T* const streams = reinterpret_cast<T*>(state.host_streams.data());
    check_embedding(embed_tokens(state.config, state.ids, first, count, bytes, streams));
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
  copy_async(state.computing, flow_->host_findings.data(), state.tokens->findings,
             flow_->host_findings.size());
  state.computing.synchronize();
  check_embedding(flow_->finding(CudaFindings::kEmbedding));
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
  flow_->dense.expect(dense, flow_->state.stored_block);
}

template <class T>
void DeepseekV4CudaForward<T>::take(const std::string& name, uint64_t begin, std::span<const std::byte> bytes,
                                    const Owner& owner) {
  std::byte* const to = flow_->dense.take(name, begin, bytes);
  if (to == nullptr) return;
  CudaForwardState<T>& state = flow_->state;
  state.copy_clock.time(state.copying, [&] { flow_->send(to, bytes.data(), bytes.size()); });
  flow_->held.add(state.copying, owner);
}

template <class T>
void DeepseekV4CudaForward<T>::begin_layer() {
  flow_->next_expert = 0;
  flow_->begin_layer();
}

template <class T>
void DeepseekV4CudaForward<T>::expert(uint64_t expert, const StoredExpert& weights, const Owner& owner) {
  assert(expert == flow_->next_expert && expert < flow_->state.config.n_routed_experts);
  check_expert(flow_->state.config, flow_->state.layer, expert, weights);
  flow_->send_expert(expert, weights, owner);
  ++flow_->next_expert;
}

template <class T>
LayerAmax DeepseekV4CudaForward<T>::end_layer() {
  assert(flow_->next_expert == flow_->state.config.n_routed_experts);
  LayerAmax amax = flow_->end_layer();
  ++flow_->state.layer;
  return amax;
}

template <class T>
DeviceUse DeepseekV4CudaForward<T>::device_use() const {
  return flow_->state.use;
}

template <class T>
std::span<const int32_t> DeepseekV4CudaForward<T>::chosen_experts() const {
  return flow_->routing.chosen();
}

template <class T>
std::vector<float> DeepseekV4CudaForward<T>::logits(size_t row, const StoredTensors& tensors) {
  return row_logits(flow_->state, head_weights(flow_->state.config, tensors), row);
}

template <class T>
std::vector<float> DeepseekV4CudaForward<T>::nll(size_t row, const StoredTensors& tensors) {
  return row_nll(flow_->state, head_weights(flow_->state.config, tensors), row);
}

template <class T>
std::unique_ptr<ForwardPass> make_cuda_forward_pass(const DeepseekV4Config& config,
                                                    std::vector<std::vector<int32_t>> rows,
                                                    const ForwardDevice& device) {
  return std::make_unique<DeepseekV4CudaForward<T>>(config, std::move(rows), device);
}

BufferAllocator read_buffers(const ForwardDevice& device) { return device.cuda ? pinned_buffer : nullptr; }

std::string device_identity(const ForwardDevice& device) {
  if (!device.cuda) return {};
  use_cuda_device(*device.cuda);
  return "cuda " + cuda_device_text() + ", " + CudaProducts().library();
}

// As large as an expert's products; far below a second.
template <class T>
ComputeRates probe_device(const ForwardDevice& device) {
  constexpr size_t kSize = 2048, kRepeats = sizeof(T) == 2 ? 32 : 2;
  use_cuda_device(device.cuda.value());
  CudaStream stream;
  CudaProducts products;
  CudaClock clock;
  const DeviceArray<T> x(kSize * kSize), w(kSize * kSize);
  const DeviceArray<float> y(kSize * kSize);
  const Buffer host = pinned_buffer(x.size() * sizeof(T));
  std::memset(host.data(), 0x3c, host.size());
  const auto copy = [&] {
    for (T* to : {x.data(), w.data()}) copy_async(stream, to, host.data(), host.size());
  };
  const auto multiply = [&] {
    const ProductShape shape{.m = kSize, .n = kSize, .k = kSize, .x_stride = kSize, .y_stride = kSize};
    for (size_t i = 0; i < kRepeats; ++i) products.multiply(stream, shape, x.data(), w.data(), y.data());
  };
  const auto seconds = [&](const auto& f) {
    f();  // loads code, wakes the device
    clock.time(stream, f);
    stream.synchronize();
    return clock.take_seconds();
  };
  const double copying = seconds(copy), multiplying = seconds(multiply);
  return {.flops_per_second = 2.0 * kRepeats * kSize * kSize * kSize / multiplying,
          .bus_bytes_per_second = 2.0 * static_cast<double>(host.size()) / copying};
}
template ComputeRates probe_device<float>(const ForwardDevice&);
template ComputeRates probe_device<bf16>(const ForwardDevice&);

template std::unique_ptr<ForwardPass> make_cuda_forward_pass<float>(const DeepseekV4Config&,
                                                                    std::vector<std::vector<int32_t>>,
                                                                    const ForwardDevice&);
template std::unique_ptr<ForwardPass> make_cuda_forward_pass<bf16>(const DeepseekV4Config&,
                                                                   std::vector<std::vector<int32_t>>,
                                                                   const ForwardDevice&);
template class DeepseekV4CudaForward<float>;
template class DeepseekV4CudaForward<bf16>;

}  // namespace nibblecast
