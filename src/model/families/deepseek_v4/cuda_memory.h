// model/families/deepseek_v4/cuda_memory.h - what the forward pass keeps in a device's memory: one text lays the
// buffers out and says what they take (base/arena.h). In every build, so that a plan knows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arena.h"
#include "model/cuda_memory.h"
#include "model/families/deepseek_v4/config.h"
#include "model/logits.h"
#include "ops/compressor.h"
#include "ops/cross_entropy.h"
#include "ops/hyper_connection.h"
#include "ops/rope.h"

namespace nibblecast {

// Fixed, so that results do not depend on how much memory there is.
inline constexpr uint64_t kCudaGroupTokens = 8192;   // rows that attention takes together, or one longer row
inline constexpr uint64_t kCudaExpertTokens = 4096;  // that go through an expert at once
inline constexpr uint64_t kCudaIndexTokens = 512;    // queries whose index scores exist at once
inline constexpr uint64_t kCudaRowStep = 128;        // products of experts have a multiple of this many rows

struct RowOfGroup;
struct QueryBlock;

// What stays while the forward pass lives, and the state of the layer in progress.
template <class T>
struct CudaTokens {
  T* x_ffn = nullptr;                                              // [tokens, D]: input of router and experts
  float* sum = nullptr;                                            // [tokens, D]: experts' outputs
  StreamMix* mixes = nullptr;                                      // [tokens]
  int32_t* ids = nullptr;                                          // [tokens]
  uint32_t* positions = nullptr;                                   // [tokens], in the token's row
  int32_t* chosen = nullptr;                                       // [tokens, K]
  float* chosen_weights = nullptr;                                 // [tokens, K]
  uint32_t* list_tokens = nullptr;                                 // [tokens * K]: of expert 0, 1, ...
  float* list_weights = nullptr;                                   // [tokens * K]
  uint32_t* findings = nullptr;                                    // amaxes and faults of the layer
  Rope::Turn *sliding_turns = nullptr, *compress_turns = nullptr;  // [longest row, pairs]

  CudaTokens(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload);
};

// Of a group of rows on its way through attention. [G, ..]: a row per token of the group.
template <class T>
struct CudaAttentionBuffers {
  T* streams = nullptr;                       // [G, n, D] where the streams are in host memory
  T* x = nullptr;                             // [G, D]
  float* products = nullptr;                  // [n, G, parts of fn * (2 + n) * n]
  StreamMix* mixes = nullptr;                 // [G]
  float* sums = nullptr;                      // [G, the wider of q_lora_rank and head_dim]
  T *qr = nullptr, *kv = nullptr;             // [G, q_lora_rank], [G, head_dim]
  float *values = nullptr, *gates = nullptr;  // [G, a compressor's channels]
  T *entries = nullptr, *index_entries = nullptr;
  float* head_weights = nullptr;               // [G, index_n_heads]
  uint64_t* chosen = nullptr;                  // [G, words]
  T* index_q = nullptr;                        // [kCudaIndexTokens, index_n_heads * index_head_dim]
  float* scores = nullptr;                     // [kCudaIndexTokens, entries of the longest row]
  T *q = nullptr, *u = nullptr, *y = nullptr;  // of a chunk of queries: all heads, all ranks, [.., D]
  float* logits = nullptr;                     // [G, E]

  CudaAttentionBuffers(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload,
                       bool resident);
};

// Of tokens on their way through an expert, and of a group of tokens that leaves the layer.
template <class T>
struct CudaExpertBuffers {
  T *w13 = nullptr, *w2 = nullptr;         // dequantized: [2 I, D], [D, I]
  T *x = nullptr, *act = nullptr;          // [M, D], [M, I]
  float *gate_up = nullptr, *y = nullptr;  // [M, 2 I], [M, D]
  T* streams = nullptr;                    // [M, n, D] where the streams are in host memory

  CudaExpertBuffers(Arena& arena, const DeepseekV4Config& config, bool resident);
};

// After the last layer: of all tokens, and of kHeadTokens on their way through kHeadRows of head.weight.
template <class T>
struct CudaHeadBuffers {
  float *fn = nullptr, *base = nullptr, *scale = nullptr;  // hc_head_*
  T* fn_parts = nullptr;                                   // [parts * n, n * D]
  float* norm = nullptr;                                   // [D]
  int32_t* targets = nullptr;                              // [tokens]
  CrossEntropy* states = nullptr;                          // [tokens]
  T* streams = nullptr;                                    // [M, n, D] where the streams are in host memory
  float* products = nullptr;                               // [n, M, parts * n]
  bf16* stored[2] = {};                                    // [kHeadRows, D], one after the other
  T* rows = nullptr;                                       // the same in T, where T is another type
  float* logits = nullptr;                                 // [M, kHeadRows]

  CudaHeadBuffers(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload, bool resident);
};

// Lays out the buffers of which one set is in use at a time: attention, experts, the head.
template <class T>
struct CudaWork {
  CudaAttentionBuffers<T> attention;
  CudaExpertBuffers<T> expert;
  CudaHeadBuffers<T> head;

  CudaWork(Arena& arena, const DeepseekV4Config& config, const CudaWorkload& workload, bool resident);
};

// The most of any layer; element_bytes: sizeof(T).
CudaLayerBytes cuda_layer_bytes(const DeepseekV4Config& config, size_t element_bytes);

// As fit_cuda_memory(). expert_bytes 0: MXFP4's.
template <class T>
CudaMemory cuda_memory(const DeepseekV4Config& config, const CudaWorkload& workload, uint64_t expert_bytes,
                       uint64_t limit_bytes);

// Amaxes and faults of a layer: indices into CudaTokens::findings.
struct CudaFindings {
  enum : size_t {
    kAttentionX,
    kQueriesRank,
    kAttentionOut,
    kOutRank,
    kAttentionStreams,
    kFfnX,
    kSharedAct,
    kFfnStreams,
    kEmbedding,
    kNanScore,
    kUnknownExpert,
    kNanEntry,
    kExperts,
  };
  size_t experts = 0;
  size_t w13(size_t expert) const { return kExperts + expert; }
  size_t w2(size_t expert) const { return kExperts + experts + expert; }
  size_t w2_weighted(size_t expert) const { return kExperts + 2 * experts + expert; }
  size_t count() const { return kExperts + 3 * experts; }
};

}  // namespace nibblecast
