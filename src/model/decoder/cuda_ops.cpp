#include "model/decoder/cuda_ops.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "formats/nvfp4_input_cuda.h"
#include "model/forward_checks.h"
#include "ops/activation_cuda.h"
#include "ops/cross_entropy_cuda.h"
#include "ops/latent_heads_cuda.h"
#include "ops/rmsnorm_cuda.h"
#include "ops/router_cuda.h"
#include "ops/rows_cuda.h"

namespace nibblecast {
template <class T>
CudaOps<T>::CudaOps(const Model& model, TokenRows rows, const ForwardDevice& where)
    : hidden_(std::get<DecoderSpec>(model.spec).hidden),
      top_(DecoderWidths(std::get<DecoderSpec>(model.spec)).top),
      rows_(std::move(rows)),
      profile_(where.profile),
      blocks_(model, rows_, where),
      weights_(decoder_layer_bytes(model, sizeof(T)), copying_, computing_, profile_),
      groups_(rows_, kSizes),
      slots_(blocks_.slots.data(), blocks_.memory.slots, blocks_.memory.slot_bytes, copying_, computing_),
      routed_(blocks_.findings_count),
      found_(blocks_.findings_count),
      owners_(where.held_owners) {
  begin_layer();
}

template <class T>
T* CudaOps<T>::load(size_t begin, size_t count) {
  T* const streams = reinterpret_cast<T*>(blocks_.streams()) + begin * hidden_;
  if (blocks_.memory.streams_resident) return streams;
  copy_async(computing_, work().x, streams, count * hidden_ * sizeof(T));
  return work().x;
}

template <class T>
void CudaOps<T>::store(size_t begin, size_t count, const T* x) {
  if (blocks_.memory.streams_resident) return;
  copy_async(computing_, reinterpret_cast<T*>(blocks_.streams()) + begin * hidden_, x,
             count * hidden_ * sizeof(T));
}

// Rows of the embedding go through where the head's will be, or, for streams on the host, not to the device
// at all.
template <class T>
void CudaOps<T>::embed(const EmbeddingShape& shape, uint64_t first, uint64_t count,
                       std::span<const std::byte> bytes) {
  if (!blocks_.memory.streams_resident) {
    T* const streams = reinterpret_cast<T*>(blocks_.streams());
    check_embedding(shape.name, embed_tokens(shape, rows_.ids, first, count, bytes, streams));
    return;
  }
  if (check_embedding_rows<T>(shape, first, count, bytes) != sizeof(bf16)) {
    throw Error(ErrorKind::kUnsupported, {.tensor = shape.name},
                "is not BF16, which a device does not take here",
                {.hint = "give --compute-dtype bfloat16, or --device cpu"});
  }
  const size_t row_bytes = hidden_ * sizeof(bf16);
  std::byte* const piece = work().head.stored[0];
  for (uint64_t done = 0; done < count; done += kHeadRows) {
    const uint64_t rows = std::min<uint64_t>(kHeadRows, count - done);
    copy_async(computing_, piece, bytes.data() + done * row_bytes, rows * row_bytes);
    embed_cuda(computing_, reinterpret_cast<const bf16*>(piece), first + done, rows, blocks_.tokens->ids,
               tokens(), 1, hidden_, residual().x, seen(LayerFinding::kEmbedding));
  }
  float largest = 0;
  copy_async(computing_, &largest, seen(LayerFinding::kEmbedding), sizeof largest);
  computing_.synchronize();
  check_embedding(shape.name, largest);
}

template <class T>
void CudaOps<T>::read_residual(uint64_t begin, std::span<std::byte> bytes) const {
  copy_async(computing_, bytes.data(), blocks_.streams() + begin, bytes.size());
  computing_.synchronize();
}

template <class T>
void CudaOps<T>::write_residual(uint64_t begin, std::span<const std::byte> bytes) {
  copy_async(computing_, blocks_.streams() + begin, bytes.data(), bytes.size());
  computing_.synchronize();
}

template <class T>
void CudaOps<T>::begin_layer() {
  fill_async(computing_, blocks_.tokens->findings, 0, blocks_.findings_count * sizeof(uint32_t));
}

template <class T>
template <class From>
void CudaOps<T>::norm(const From* x, size_t count, size_t width, const float* weight, const NormSpec& spec,
                      T* y, Seen seen) {
  part(CudaProfile::kNorms,
       [&] { rmsnorm_cuda(computing_, x, count, width, weight, spec.use, spec.eps, y, seen); });
}

template <class T>
const T* CudaOps<T>::rounded(const T* x, size_t count, size_t width, float input_scale) {
  if (input_scale == 0) return x;
  const size_t size_bytes = count * width * sizeof(T);
  if (rounded_.size() < size_bytes) {
    rounded_ = DeviceBuffer();  // first, so that only one of them exists
    rounded_ = DeviceBuffer(size_bytes);
  }
  T* const to = reinterpret_cast<T*>(rounded_.data());
  part(CudaProfile::kMoves, [&] { round_nvfp4_input_cuda(computing_, x, count * width, input_scale, to); });
  return to;
}

template <class T>
void CudaOps<T>::product(const T* x, size_t count, const Linear<CudaOps>& linear, float* y) {
  x = rounded(x, count, linear.weight.cols, linear.input_scale);
  biased(x, count, linear, y, linear.weight.rows);
}

template <class T>
void CudaOps<T>::biased(const T* x, size_t count, const Linear<CudaOps>& linear, float* y, size_t y_stride) {
  multiply(x, count, linear.weight, y, y_stride);
  if (linear.bias == nullptr) return;
  part(CudaProfile::kMoves,
       [&] { add_bias_cuda(computing_, y, count, linear.weight.rows, linear.bias, y, y_stride); });
}

template <class T>
void CudaOps<T>::multiply(const T* x, size_t count, const Matrix& weight, float* y, size_t y_stride) {
  const ProductShape shape{
      .m = count, .n = weight.rows, .k = weight.cols, .x_stride = weight.cols, .y_stride = y_stride};
  part(CudaProfile::kProducts, [&] { products_.multiply(computing_, shape, x, weight.values, y); });
}

template <class T>
template <class From>
void CudaOps<T>::turn_heads(const From* x, size_t count, size_t heads, size_t width, const HeadNorm* norm,
                            const RopeSpec* rope, size_t first, T* y) {
  part(CudaProfile::kNorms, [&] {
    norm_and_turn_heads_cuda(computing_, x, count, heads, width, norm, blocks_.rope(rope),
                             blocks_.tokens->positions + first, y);
  });
}

template <class T>
void CudaOps<T>::spread_latent(const LatentHeads& shape, const float* expanded, const T* shared, size_t count,
                               T* k, T* v) {
  part(CudaProfile::kMoves, [&] { spread_latent_cuda(computing_, shape, expanded, shared, count, k, v); });
}

template <class T>
void CudaOps<T>::see(const T* x, size_t count, size_t width, Seen seen) {
  part(CudaProfile::kMoves, [&] { amax_cuda(computing_, x, count * width, seen); });
}

template <class T>
void CudaOps<T>::add(const float* y, size_t count, size_t width, T* x, Seen seen) {
  part(CudaProfile::kMoves, [&] { add_rounded_cuda(computing_, y, count, width, x, seen); });
}

template <class T>
void CudaOps<T>::clear(float* values, size_t count) {
  fill_async(computing_, values, 0, count * sizeof(float));
}

template <class T>
void CudaOps<T>::attend(const GqaShape& shape, const RowGroup& group, size_t begin, size_t, const T* q,
                        const T* k, const T* v, const float* sinks, T* out, Seen seen) {
  const CudaRowGroups::Chunk chunk = groups_.chunk(group, begin);
  GqaCuda<T> gqa = gqa_view<T>(shape);
  gqa.rows = chunk.rows;
  gqa.keys = k;
  gqa.values = v;
  gqa.sinks = sinks;
  part(CudaProfile::kAttention,
       [&] { gqa_cuda(computing_, gqa, chunk.blocks, chunk.block_count, begin, q, out, seen); });
}

template <class T>
void CudaOps<T>::delta_net(const DeltaNetShape& shape, const DeltaNetVectors& vectors, const RowGroup& group,
                           size_t begin, size_t count, Seen seen) {
  const DeltaNetBuffers<T>& buffers = work().delta_net;
  const DeltaNetChunkCuda chunk{.rows = groups_.chunk(group, begin).rows,
                                .row_count = group.count,
                                .group_tokens = group.tokens,
                                .begin = begin,
                                .count = count,
                                .positions = blocks_.tokens->positions + group.begin + begin};
  part(CudaProfile::kAttention, [&] {
    delta_net_cuda(computing_, shape, vectors, buffers.inputs(), chunk, buffers.carry, buffers.sums,
                   buffers.o, buffers.out, seen);
  });
}

template <class T>
template <class To>
void CudaOps<T>::copy_columns(const float* x, size_t count, size_t x_width, const ColumnBlocks& blocks, To* y,
                              size_t y_stride) {
  part(CudaProfile::kMoves, [&] { copy_columns_cuda(computing_, x, count, x_width, blocks, y, y_stride); });
}

template <class T>
void CudaOps<T>::gate_elements(const T* gates, size_t count, size_t width, T* x, Seen seen) {
  part(CudaProfile::kMoves, [&] { gate_elements_cuda(computing_, gates, count * width, x, seen); });
}

template <class T>
void CudaOps<T>::gate_rows(const T* x, size_t count, const float* weight, float* y) {
  part(CudaProfile::kMoves, [&] { gate_rows_cuda(computing_, x, count, weight, hidden_, y, hidden_); });
}

// Gates and ups of a row stand side by side.
template <class T>
void CudaOps<T>::activate(const Activation& activation, const T* x, size_t count, size_t padded,
                          const GatedMlp<CudaOps>& weights, const float* row_weights, T* act, Seen mid,
                          Seen weighted) {
  const size_t inner = weights.up.weight.rows, stride = activation.gated() ? 2 * inner : inner;
  float* const inputs = work().ffn.gate_up;
  x = rounded(x, padded, weights.up.weight.cols, weights.up.input_scale);
  if (activation.gated()) biased(x, padded, weights.gate, inputs, stride);
  biased(x, padded, weights.up, inputs + stride - inner, stride);
  part(CudaProfile::kMoves, [&] {
    activate_cuda(computing_, activation, inputs, count, inner, nullptr, act, mid, nullptr);
    if (weighted != nullptr) weighted_amax_cuda(computing_, act, count, inner, row_weights, weighted);
  });
}

template <class T>
void CudaOps<T>::route(const RouterSpec& router, const float* bias, const float* logits, size_t first,
                       size_t count) {
  static_assert(LayerFinding::kUnknownExpert == LayerFinding::kNanScore + 1);
  const RoutingBuffers& to = residual().routing;
  part(CudaProfile::kMoves, [&] {
    route_cuda(computing_, router_view(router, bias), logits, blocks_.tokens->ids + first, count,
               to.chosen + first * router.top, to.weights + first * router.top,
               reinterpret_cast<RouterFaults*>(seen(LayerFinding::kNanScore)));
  });
}

template <class T>
void CudaOps<T>::fetch_routing() {
  const RoutingBuffers& from = residual().routing;
  const size_t choices = tokens() * top_;
  copy_async(computing_, blocks_.routing.chosen, from.chosen, choices * sizeof(int32_t));
  copy_async(computing_, blocks_.routing.weights, from.weights, choices * sizeof(float));
  routed_.fetch(computing_, blocks_.tokens->findings);
}

template <class T>
const RoutingBuffers& CudaOps<T>::routing() {
  routed_.wait();
  return blocks_.routing;
}

template <class T>
void CudaOps<T>::send_lists() {
  const RoutingBuffers& to = residual().routing;
  const size_t choices = tokens() * top_;
  copy_async(computing_, to.list_tokens, blocks_.routing.list_tokens, choices * sizeof(uint32_t));
  copy_async(computing_, to.list_weights, blocks_.routing.list_weights, choices * sizeof(float));
}

template <class T>
void CudaOps<T>::gather(const uint32_t* tokens, size_t count, size_t, T* out) {
  part(CudaProfile::kMoves,
       [&] { gather_rows_cuda(computing_, residual().x, hidden_, tokens, count, out, nullptr); });
}

template <class T>
void CudaOps<T>::scatter_add(const float* y, const uint32_t* tokens, const float* weights, size_t count) {
  part(CudaProfile::kMoves,
       [&] { scatter_add_rows_cuda(computing_, y, hidden_, tokens, count, residual().sum, weights); });
}

template <class T>
GatedMlp<CudaOps<T>> CudaOps<T>::mlp_weights(const StoredExpert& stored) {
  const FfnBuffers<T>& buffers = work().ffn;
  GatedMlp<CudaOps> weights;
  if (rows_of(stored.w1) != 0) weights.gate.weight = weights_.matrix(stored.w1, buffers.gate);
  weights.up.weight = weights_.matrix(stored.w3, buffers.up);
  weights.down.weight = weights_.matrix(stored.w2, buffers.down);
  weights.gate.input_scale = weights.up.input_scale = stored.in_scale;
  weights.down.input_scale = stored.mid_scale;
  return weights;
}

// What is used as stored is read until the MLP is through.
template <class T>
CudaSlots::Compute CudaOps<T>::computing(const RunMlp<CudaOps>& run) {
  return [&](uint64_t mlp, const StoredExpert& sent, CudaEvent& used) {
    run(mlp, [&] { return mlp_weights(sent); });
    used.record(computing_);
  };
}

template <class T>
void CudaOps<T>::add_mlp(uint64_t mlp, const StoredExpert& stored, const std::function<bool()>& ready,
                         const RunMlp<CudaOps>& run) {
  const auto send = [&](std::byte* to, const std::byte* from, uint64_t size_bytes) {
    profile_.send(copying_, to, from, size_bytes);
  };
  slots_.add(mlp, stored, send, ready, computing(run));
}

template <class T>
void CudaOps<T>::finish_mlps(const RunMlp<CudaOps>& run) {
  slots_.finish(computing(run));
}

template <class T>
void CudaOps<T>::fetch_findings() {
  found_.fetch(computing_, blocks_.tokens->findings);
}

template <class T>
std::vector<uint32_t> CudaOps<T>::findings() {
  std::vector<uint32_t> bits = found_.take();
  profile_.take();
  return bits;
}

template <class T>
void CudaOps<T>::begin_head() {
  const HeadBuffers<T>& head = work().head;
  const std::vector<int32_t> targets = next_ids(rows_.rows, rows_.ids);
  const std::vector<CrossEntropy> states(tokens());
  copy_async(computing_, head.targets, targets.data(), targets.size() * sizeof(int32_t));
  copy_async(computing_, head.states, states.data(), states.size() * sizeof(CrossEntropy));
  computing_.synchronize();  // which also says that the slots are the head's
}

template <class T>
void CudaOps<T>::take_head(size_t slot, uint64_t held, std::span<const std::byte> bytes) {
  if (held == 0) copying_.wait(head_slots_[slot].used);
  profile_.send(copying_, work().head.stored[slot] + held, bytes.data(), bytes.size());
}

template <class T>
void CudaOps<T>::add_logits(const float* logits, size_t count, size_t rows, uint64_t first_row,
                            size_t first) {
  const HeadBuffers<T>& head = work().head;
  add_logits_cuda(computing_, logits, count, rows, kHeadRows, first_row, head.targets + first,
                  head.states + first);
}

template <class T>
void CudaOps<T>::show(const LogitsBlock& block, const LogitsSink& sink) {
  if (in_place_) {
    LogitsBlock here = block;
    here.queue = &computing_;
    return sink(here);
  }
  std::vector<float> values(block.tokens * block.stride);
  copy_async(computing_, values.data(), block.values, values.size() * sizeof(float));
  computing_.synchronize();
  LogitsBlock on_host = block;
  on_host.values = values.data();
  sink(on_host);
}

template <class T>
void CudaOps<T>::show(LayerPart part, size_t first, size_t count, const float* values) {
  if (!watch_.part) return;
  if (in_place_) return watch_.part(part, first, count, hidden_, {.f32 = values, .queue = &computing_});
  std::vector<float> on_host(count * hidden_);
  copy_async(computing_, on_host.data(), values, on_host.size() * sizeof(float));
  computing_.synchronize();
  watch_.part(part, first, count, hidden_, {.f32 = on_host.data()});
}

template <class T>
RowLosses CudaOps<T>::losses() {
  std::vector<CrossEntropy> states(tokens());
  copy_async(computing_, states.data(), work().head.states, states.size() * sizeof(CrossEntropy));
  computing_.synchronize();
  profile_.take();
  return row_losses(rows_.rows, states);
}

template class CudaOps<float>;
template class CudaOps<bf16>;
#define NC_FROM(T, From)                                                                                \
  template void CudaOps<T>::norm(const From*, size_t, size_t, const float*, const NormSpec&, T*, Seen); \
  template void CudaOps<T>::turn_heads(const From*, size_t, size_t, size_t, const HeadNorm*,            \
                                       const RopeSpec*, size_t, T*)
NC_FROM(float, float);
NC_FROM(bf16, float);
NC_FROM(bf16, bf16);
#undef NC_FROM
#define NC_TO(T, To) \
  template void CudaOps<T>::copy_columns(const float*, size_t, size_t, const ColumnBlocks&, To*, size_t)
NC_TO(float, float);
NC_TO(bf16, float);
NC_TO(bf16, bf16);
#undef NC_TO

}  // namespace nibblecast
