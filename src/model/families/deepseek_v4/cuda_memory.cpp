#include "model/families/deepseek_v4/cuda_memory.h"

#include <algorithm>
#include <string>

#include "base/integers.h"
#include "formats/bf16.h"
#include "model/families/deepseek_v4/tensors.h"

namespace nibblecast {
namespace {

constexpr uint64_t kMiB = 1 << 20;

uint64_t group_tokens(const CudaWorkload& workload) {
  return std::min(workload.tokens, std::max(kCudaGroupTokens, workload.longest_row));
}

size_t fn_parts_of(size_t element_bytes) { return element_bytes == 2 ? 3 : 1; }

}  // namespace

template <class T>
CudaTokens<T>::CudaTokens(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload) {
  const uint64_t tokens = workload.tokens, width = config.hidden_size;
  const uint64_t lists = tokens * config.num_experts_per_tok;
  const uint64_t turns = workload.longest_row * config.qk_rope_head_dim / 2;
  x_ffn = arena.take<T>(tokens * width);
  sum = arena.take<float>(tokens * width);
  mixes = arena.take<StreamMix>(tokens);
  ids = arena.take<int32_t>(tokens);
  positions = arena.take<uint32_t>(tokens);
  chosen = arena.take<int32_t>(lists);
  chosen_weights = arena.take<float>(lists);
  list_tokens = arena.take<uint32_t>(lists);
  list_weights = arena.take<float>(lists);
  findings = arena.take<uint32_t>(CudaFindings{config.n_routed_experts}.count());
  sliding_turns = arena.take<Rope::Turn>(turns);
  compress_turns = arena.take<Rope::Turn>(turns);
}

template <class T>
CudaAttentionBuffers<T>::CudaAttentionBuffers(Arena& arena, const DeepseekV4Config& config,
                                              const CudaWorkload& workload, bool resident) {
  const uint64_t group = group_tokens(workload), width = config.hidden_size, streams_count = config.hc_mult;
  const uint64_t chunk = std::min(group, kCudaGroupTokens), index_chunk = std::min(group, kCudaIndexTokens);
  const uint64_t index_width = config.index_n_heads * config.index_head_dim;
  const uint64_t channels = 2 * std::max(config.head_dim, config.index_head_dim);
  const uint64_t entry_count = group / 4, row_entries = workload.longest_row / 4;
  streams = arena.take<T>(resident ? 0 : group * streams_count * width);
  x = arena.take<T>(group * width);
  products =
      arena.take<float>(streams_count * group * fn_parts_of(sizeof(T)) * (2 + streams_count) * streams_count);
  mixes = arena.take<StreamMix>(group);
  sums = arena.take<float>(group * std::max(config.q_lora_rank, config.head_dim));
  qr = arena.take<T>(group * config.q_lora_rank);
  kv = arena.take<T>(group * config.head_dim);
  values = arena.take<float>(group * channels);
  gates = arena.take<float>(group * channels);
  entries = arena.take<T>(entry_count * config.head_dim);
  index_entries = arena.take<T>(entry_count * config.index_head_dim);
  head_weights = arena.take<float>(group * config.index_n_heads);
  chosen = arena.take<uint64_t>(group * ceil_div(row_entries, 64));
  index_q = arena.take<T>(index_chunk * index_width);
  scores = arena.take<float>(index_chunk * row_entries);
  q = arena.take<T>(chunk * config.num_attention_heads * config.head_dim);
  u = arena.take<T>(chunk * config.o_groups * config.o_lora_rank);
  y = arena.take<T>(chunk * width);
  logits = arena.take<float>(group * config.n_routed_experts);
}

template <class T>
CudaExpertBuffers<T>::CudaExpertBuffers(Arena& arena, const DeepseekV4Config& config, bool resident) {
  const uint64_t width = config.hidden_size, inner = config.moe_intermediate_size, rows = kCudaExpertTokens;
  w13 = arena.take<T>(2 * inner * width);
  w2 = arena.take<T>(width * inner);
  x = arena.take<T>(rows * width);
  act = arena.take<T>(rows * inner);
  gate_up = arena.take<float>(rows * 2 * inner);
  y = arena.take<float>(rows * width);
  streams = arena.take<T>(resident ? 0 : rows * config.hc_mult * width);
}

template <class T>
CudaHeadBuffers<T>::CudaHeadBuffers(Arena& arena, const DeepseekV4Config& config,
                                    const CudaWorkload& workload, bool resident) {
  const uint64_t width = config.hidden_size, n = config.hc_mult, parts = fn_parts_of(sizeof(T));
  const uint64_t chunk = std::min<uint64_t>(workload.tokens, kHeadTokens);
  fn = arena.take<float>(n * n * width);
  base = arena.take<float>(n);
  scale = arena.take<float>(1);
  fn_parts = arena.take<T>(parts * n * n * width);
  norm = arena.take<float>(width);
  targets = arena.take<int32_t>(workload.tokens);
  states = arena.take<CrossEntropy>(workload.tokens);
  streams = arena.take<T>(resident ? 0 : chunk * n * width);
  products = arena.take<float>(n * chunk * parts * n);
  for (bf16*& block : stored) block = arena.take<bf16>(kHeadRows * width);
  rows = arena.take<T>(sizeof(T) == sizeof(bf16) ? 0 : kHeadRows * width);
  logits = arena.take<float>(chunk * kHeadRows);
}

template <class T>
CudaWork<T>::CudaWork(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload,
                      bool resident)
    : attention(arena, config, workload, resident),
      expert((arena.rewind(0), arena), config, resident),
      head((arena.rewind(0), arena), config, workload, resident) {}

CudaLayerBytes cuda_layer_bytes(const DeepseekV4Config& config, size_t element_bytes) {
  CudaLayerBytes most;
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    Arena stored, vectors, weights;
    for (const ModelTensor& tensor : layer_tensors(config, layer)) {
      if (tensor.storage == Storage::kExpert) continue;
      const uint64_t count = *element_count(tensor.shape);
      if (tensor.storage == Storage::kFp8Block) {
        stored.take<std::byte>(count);
        stored.take<float>(ceil_div(tensor.shape[0], config.tile_rows) *
                           ceil_div(tensor.shape[1], config.tile_cols));
        // The shared expert goes through the buffers of the routed ones.
        const bool shared = tensor.name.find(".shared_experts.") != std::string::npos;
        if (!shared) weights.take<std::byte>(count * element_bytes);
      } else if (tensor.storage == Storage::kBF16 && tensor.shape.size() == 2) {
        stored.take<bf16>(count);
        if (element_bytes != sizeof(bf16)) weights.take<std::byte>(count * element_bytes);
      } else if (tensor.storage == Storage::kI64) {
        vectors.take<int64_t>(count);
      } else {
        vectors.take<float>(count);
      }
    }
    const uint64_t fn = (2 + config.hc_mult) * config.hc_mult * config.hc_mult * config.hidden_size;
    for (int half = 0; half < 2; ++half)
      weights.take<std::byte>(fn_parts_of(element_bytes) * fn * element_bytes);
    most.stored = std::max(most.stored, stored.size_bytes());
    most.vectors = std::max(most.vectors, vectors.size_bytes());
    most.weights = std::max(most.weights, weights.size_bytes());
  }
  return most;
}

template <class T>
CudaMemory cuda_memory(const DeepseekV4Config& config, const CudaWorkload& workload, uint64_t expert_bytes,
                       uint64_t limit_bytes) {
  const uint64_t weights = 3 * config.hidden_size * config.moe_intermediate_size;
  const CudaLayerBytes layer = cuda_layer_bytes(config, sizeof(T));
  const auto fixed = [&](bool resident) {
    Arena tokens, work;
    CudaTokens<T>(tokens, config, workload);
    CudaWork<T>(work, config, workload, resident);
    // Rows and blocks of queries: a few numbers for every 16 tokens at least.
    return tokens.size_bytes() + work.size_bytes() + layer.stored + layer.vectors + layer.weights +
           workload.tokens + workload.rows * 64 + kMiB;
  };
  const CudaDemand demand{.expert_bytes = expert_bytes == 0 ? weights / 2 + weights / 32 : expert_bytes,
                          .most_slots = config.n_routed_experts,
                          .streams_bytes = workload.tokens * config.hc_mult * config.hidden_size * sizeof(T),
                          .fixed = fixed};
  return fit_cuda_memory(demand, limit_bytes);
}

template struct CudaTokens<float>;
template struct CudaTokens<bf16>;
template struct CudaAttentionBuffers<float>;
template struct CudaAttentionBuffers<bf16>;
template struct CudaExpertBuffers<float>;
template struct CudaExpertBuffers<bf16>;
template struct CudaHeadBuffers<float>;
template struct CudaHeadBuffers<bf16>;
template struct CudaWork<float>;
template struct CudaWork<bf16>;
template CudaMemory cuda_memory<float>(const DeepseekV4Config&, const CudaWorkload&, uint64_t, uint64_t);
template CudaMemory cuda_memory<bf16>(const DeepseekV4Config&, const CudaWorkload&, uint64_t, uint64_t);

}  // namespace nibblecast
