#include "model/decoder/memory.h"

#include <algorithm>

#include "base/file.h"
#include "base/integers.h"
#include "formats/bf16.h"
#include "model/decoder/findings.h"
#include "model/decoder/weights.h"
#include "model/logits.h"
#include "model/token_rows.h"
#include "ops/gqa.h"
#include "ops/linear.h"

namespace nibblecast {
namespace {

constexpr uint64_t kRoom = 1 << 20;

uint64_t padded(uint64_t tokens, const DecoderSizes& sizes) {
  return ceil_div(tokens, sizes.row_step) * sizes.row_step;
}

uint64_t mlp_rows(const CudaWorkload& work, const DecoderSizes& sizes) {
  return padded(std::min(work.tokens, sizes.mlp_tokens), sizes);
}

// Of the residual stream that are at once on a device that keeps it in host memory.
uint64_t stream_rows(const CudaWorkload& work, const DecoderSizes& sizes) {
  return std::min(work.tokens, std::max({sizes.chunk_tokens, sizes.mlp_tokens, uint64_t{kHeadTokens}}));
}

// Keys and values of a group of rows laid out for the products, and what each thread holds of attention.
template <class T>
uint64_t attention_bytes(const DecoderSpec& spec, uint64_t longest_row, size_t threads) {
  const uint64_t keys = std::max(kCpuSizes.chunk_tokens, longest_row);
  uint64_t most = 0;
  for (const DecoderLayer& layer : spec.layers) {
    if (const auto* net = std::get_if<DeltaNetSpec>(&layer.mixer)) {
      most = std::max<uint64_t>(most, threads * delta_net_scratch_bytes(net->shape));
      continue;
    }
    const GqaShape shape = *score_shape(layer.mixer);
    const uint64_t thread = gqa_scratch_bytes<T>(shape) +
                            matmul_scratch_bytes<T>(kPanel, gqa_deepest(shape)) +
                            shape.key_width * sizeof(float);
    most = std::max(most, GqaKeys<T>::bytes(shape, keys) + threads * thread);
  }
  return most;
}

void raise_to(const GqaShape& shape, DecoderWidths& widths) {
  const auto raise = [&](uint64_t& most, uint64_t width) {
    most = std::max(most, width);
    widths.sums = std::max(widths.sums, width);
  };
  raise(widths.queries, shape.heads * shape.key_width);
  raise(widths.out, shape.heads * shape.value_width);
  raise(widths.keys, shape.kv_heads * shape.key_width);
  raise(widths.values, shape.kv_heads * shape.value_width);
}

void raise_to(const GqaSpec& gqa, DecoderWidths& widths) {
  raise_to(score_shape(gqa), widths);
  if (!gqa.output_gate) return;
  widths.gated = std::max(widths.gated, gqa.heads * gqa.width);
  widths.sums = std::max(widths.sums, 2 * widths.gated);
}

void raise_to(const MlaSpec& mla, DecoderWidths& widths) {
  raise_to(score_shape(mla), widths);
  widths.rank = std::max({widths.rank, mla.q_rank, mla.kv_rank});
  widths.shared = std::max<uint64_t>(widths.shared, mla.heads.shared);
  widths.sums = std::max<uint64_t>({widths.sums, widths.rank, mla.heads.heads * mla.heads.expanded_width()});
}

void raise_to(const DeltaNetSpec& net, DecoderWidths& widths) {
  const DeltaNetShape& shape = net.shape;
  DecoderWidths::DeltaNet& most = widths.delta_net;
  const bool by_head = net.input == DeltaNetInput::kByHead;
  most.projected = std::max<uint64_t>(most.projected, by_head ? shape.channels() + shape.values() : 0);
  most.channels = std::max<uint64_t>(most.channels, shape.channels());
  most.values = std::max<uint64_t>(most.values, shape.values());
  most.heads = std::max<uint64_t>(most.heads, shape.value_heads);
  most.history = std::max<uint64_t>(most.history, shape.history());
  most.state = std::max<uint64_t>(most.state, shape.state());
}

}  // namespace

DecoderWidths::DecoderWidths(const DecoderSpec& spec) : hidden(spec.hidden), vocab(spec.vocab), sums(hidden) {
  for (const DecoderLayer& layer : spec.layers) {
    std::visit([&](const auto& mixer) { raise_to(mixer, *this); }, layer.mixer);
    if (const auto* mlp = std::get_if<MlpSpec>(&layer.ffn)) {
      inner = std::max(inner, mlp->width);
      continue;
    }
    const MoeSpec& moe = std::get<MoeSpec>(layer.ffn);
    inner = std::max({inner, moe.expert.width, moe.shared ? moe.shared->width : 0});
    experts = std::max<uint64_t>(experts, moe.router.experts);
    top = std::max<uint64_t>(top, moe.router.top);
  }
}

std::vector<RopeSpec> distinct_ropes(const DecoderSpec& spec) {
  std::vector<RopeSpec> ropes;
  for (const DecoderLayer& layer : spec.layers) {
    const RopeSpec* const found = rope_of(layer.mixer);
    if (found == nullptr) continue;
    const RopeSpec& rope = *found;
    if (rope.dims != 0 && std::ranges::find(ropes, rope) == ropes.end()) ropes.push_back(rope);
  }
  return ropes;
}

template <class T>
ResidualBuffers<T>::ResidualBuffers(Arena& arena, const DecoderWidths& widths, uint64_t tokens,
                                    bool resident) {
  if (resident) x = arena.take<T>(tokens * widths.hidden);
  if (widths.experts == 0) return;
  sum = arena.take<float>(tokens * widths.hidden);
  routing = RoutingBuffers(arena, tokens * widths.top);
}

template <class T>
AttentionBuffers<T>::AttentionBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                                      const DecoderSizes& sizes) {
  const uint64_t chunk = std::min(work.tokens, sizes.chunk_tokens);
  const uint64_t group = std::min(work.tokens, std::max(sizes.chunk_tokens, work.longest_row));
  in = arena.take<T>(chunk * widths.hidden);
  q = arena.take<T>(chunk * widths.queries);
  out = arena.take<T>(chunk * widths.out);
  gates = arena.take<T>(chunk * widths.gated);
  k = arena.take<T>(group * widths.keys);
  v = arena.take<T>(group * widths.values);
  sums = arena.take<float>(chunk * widths.sums);
  rank = arena.take<T>(chunk * widths.rank);
  position = arena.take<float>(chunk * widths.shared);
  shared = arena.take<T>(chunk * widths.shared);
}

template <class T>
DeltaNetBuffers<T>::DeltaNetBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                                    const DecoderSizes& sizes) {
  const DecoderWidths::DeltaNet& net = widths.delta_net;
  if (net.channels == 0) return;
  const uint64_t chunk = std::min(work.tokens, sizes.chunk_tokens);
  in = arena.take<T>(chunk * widths.hidden);
  x = arena.take<float>(chunk * net.channels);
  z = arena.take<float>(chunk * net.values);
  a = arena.take<float>(chunk * net.heads);
  b = arena.take<float>(chunk * net.heads);
  sums = arena.take<float>(chunk * std::max({net.projected, net.channels, widths.hidden}));
  o = arena.take<float>(chunk * net.values);
  out = arena.take<T>(chunk * net.values);
  if (work.longest_row <= sizes.chunk_tokens) return;
  carry = {.history = arena.take<float>(net.history), .state = arena.take<float>(net.state)};
}

template <class T>
FfnBuffers<T>::FfnBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                          const DecoderSizes& sizes) {
  const uint64_t rows = mlp_rows(work, sizes);
  in = arena.take<T>(rows * widths.hidden);
  act = arena.take<T>(rows * widths.inner);
  y = arena.take<float>(rows * widths.hidden);
  logits = arena.take<float>(rows * widths.experts);
  if (!sizes.dequantizes) return;
  gate_up = arena.take<float>(rows * 2 * widths.inner);
  for (T** weight : {&gate, &up, &down}) *weight = arena.take<T>(widths.inner * widths.hidden);
}

template <class T>
HeadBuffers<T>::HeadBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                            const DecoderSizes& sizes) {
  targets = arena.take<int32_t>(work.tokens);
  states = arena.take<CrossEntropy>(work.tokens);
  const uint64_t block = std::min<uint64_t>(kHeadRows, widths.vocab);
  for (size_t slot = 0; slot < sizes.head_slots; ++slot)
    stored[slot] = arena.take<std::byte>(block * widths.hidden * sizeof(T));
  if (sizes.dequantizes && sizeof(T) != sizeof(bf16)) rows = arena.take<T>(block * widths.hidden);
  logits = arena.take<float>(std::min<uint64_t>(kHeadTokens, work.tokens) * kHeadRows);
}

template <class T>
WorkBuffers<T>::WorkBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                            const DecoderSizes& sizes, bool resident)
    : x(resident ? nullptr : arena.take<T>(stream_rows(work, sizes) * widths.hidden)),
      begin(arena.mark()),
      attention(arena, widths, work, sizes),
      delta_net((arena.rewind(begin), arena), widths, work, sizes),
      ffn((arena.rewind(begin), arena), widths, work, sizes),
      head((arena.rewind(begin), arena), widths, work, sizes) {}

CudaTokenBuffers::CudaTokenBuffers(Arena& arena, const DecoderSpec& spec, const CudaWorkload& work)
    : ids(arena.take<int32_t>(work.tokens)),
      positions(arena.take<uint32_t>(work.tokens)),
      findings(arena.take<uint32_t>(LayerFinding::count(DecoderWidths(spec).experts))) {
  for (const RopeSpec& rope : distinct_ropes(spec))
    turns.push_back(arena.take<Rope::Turn>(work.longest_row * rope.dims / 2));
}

template <class T>
uint64_t decoder_memory_bytes(const Model& model, uint64_t tokens, uint64_t longest_row, size_t threads) {
  const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
  const DecoderWidths widths(spec);
  const CudaWorkload work{.tokens = tokens, .longest_row = longest_row};
  Arena residual, buffers;
  ResidualBuffers<T>(residual, widths, tokens, true);
  WorkBuffers<T>(buffers, widths, work, kCpuSizes, true);
  uint64_t ropes = 0;
  for (const RopeSpec& rope : distinct_ropes(spec)) ropes += longest_row * rope.dims / 2 * sizeof(Rope::Turn);
  // Ids, positions, what each token predicts, and rows, of which there are no more than tokens.
  const uint64_t rows = tokens * (3 * sizeof(int32_t) + sizeof(RowSpan));
  const uint64_t findings = (LayerFinding::count(widths.experts) + 3 * widths.experts) * sizeof(uint64_t);
  const uint64_t deepest =
      std::max({widths.hidden, widths.out, widths.rank, widths.delta_net.values, widths.inner});
  return residual.size_bytes() + buffers.size_bytes() + 2 * kDirectAlignment + ropes + rows + findings +
         attention_bytes<T>(spec, longest_row, threads) +
         threads * (linear_scratch_bytes<T>(2, deepest) + 4 * widths.experts * sizeof(float));
}

CudaLayerBytes decoder_layer_bytes(const Model& model, size_t element_bytes) {
  CudaLayerBytes most;
  const auto look_at = [&](const LayerTable& table) {
    Arena stored, vectors, weights;
    for (const WeightModule& module : table.modules) {
      if (module.streams() || module.kind == ModuleKind::kHead || module.kind == ModuleKind::kEmbedding)
        continue;
      const uint64_t count = module.shape[0] * module.shape[1];
      stored.take<bf16>(count);  // the widest format but FP32
      weights.take<std::byte>(count * element_bytes);
      if (module.bias) vectors.take<float>(module.shape[0]);
      if (is_vector(module)) vectors.take<float>(count);
    }
    for (const PlainTensor& tensor : table.plain)
      vectors.take<float>(element_count(tensor.shape).value_or(0));
    most.stored = std::max(most.stored, stored.size_bytes());
    most.vectors = std::max(most.vectors, vectors.size_bytes());
    most.weights = std::max(most.weights, weights.size_bytes());
  };
  for (const LayerTable& layer : model.table.layers) look_at(layer);
  look_at(model.table.globals);
  return most;
}

template <class T>
CudaMemory decoder_cuda_memory(const Model& model, const CudaWorkload& work, uint64_t expert_bytes,
                               uint64_t limit_bytes) {
  const DecoderSpec& spec = std::get<DecoderSpec>(model.spec);
  const DecoderWidths widths(spec);
  const CudaLayerBytes layer = decoder_layer_bytes(model, sizeof(T));
  const auto fixed = [&](bool resident) {
    Arena tokens, residual, buffers;
    CudaTokenBuffers(tokens, spec, work);
    ResidualBuffers<T>(residual, widths, work.tokens, false);
    WorkBuffers<T>(buffers, widths, work, kCudaSizes, resident);
    // Rows and blocks of queries: a few numbers for every 64 tokens, and for every row.
    return tokens.size_bytes() + residual.size_bytes() + buffers.size_bytes() + layer.stored + layer.vectors +
           layer.weights + work.tokens + work.rows * 64 + kRoom;
  };
  const uint64_t mlp = 3 * widths.hidden * widths.inner * sizeof(bf16);
  return fit_cuda_memory({.expert_bytes = expert_bytes == 0 ? mlp : expert_bytes,
                          .most_slots = widths.experts,
                          .streams_bytes = work.tokens * widths.hidden * sizeof(T),
                          .may_leave = widths.experts == 0,
                          .fixed = fixed},
                         limit_bytes);
}

template struct ResidualBuffers<float>;
template struct ResidualBuffers<bf16>;
template struct AttentionBuffers<float>;
template struct AttentionBuffers<bf16>;
template struct DeltaNetBuffers<float>;
template struct DeltaNetBuffers<bf16>;
template struct FfnBuffers<float>;
template struct FfnBuffers<bf16>;
template struct HeadBuffers<float>;
template struct HeadBuffers<bf16>;
template struct WorkBuffers<float>;
template struct WorkBuffers<bf16>;
template uint64_t decoder_memory_bytes<float>(const Model&, uint64_t, uint64_t, size_t);
template uint64_t decoder_memory_bytes<bf16>(const Model&, uint64_t, uint64_t, size_t);
template CudaMemory decoder_cuda_memory<float>(const Model&, const CudaWorkload&, uint64_t, uint64_t);
template CudaMemory decoder_cuda_memory<bf16>(const Model&, const CudaWorkload&, uint64_t, uint64_t);

}  // namespace nibblecast
