// model/decoder/memory.h - what the forward pass of a DecoderSpec keeps in memory: one text lays the buffers
// out and says what they take (base/arena.h), for the CPU and for a CUDA device. In every build, so that a
// plan knows.
//
// Of the residual stream and of what experts add to it every token's is there, of all else that of a chunk of
// tokens. Experts take their tokens from the residual stream, which stays as it is until all have run, and
// norm them again, so that no copy of it exists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "model/cuda_memory.h"
#include "model/expert_lists.h"
#include "model/model.h"
#include "ops/cross_entropy.h"
#include "ops/delta_net.h"
#include "ops/rope.h"

namespace nibblecast {

// Fixed, so that results do not depend on how much memory there is.
struct DecoderSizes {
  uint64_t chunk_tokens = 0;  // rows that attention takes together; of a longer row, tokens at once
  uint64_t mlp_tokens = 0;    // that go through an MLP at once
  uint64_t row_step = 0;      // products of experts have a multiple of this many rows
  uint64_t head_slots = 0;    // blocks of the head's rows that are there at once
  bool dequantizes = false;   // an MLP's weights as a whole, and the inputs of its activation
};
inline constexpr DecoderSizes kCpuSizes{2048, 2048, 16, 1, false};
inline constexpr DecoderSizes kCudaSizes{8192, 4096, 128, 2, true};

// The most of any layer, in elements.
struct DecoderWidths {
  uint64_t hidden = 0, vocab = 0;
  uint64_t queries = 0, out = 0, keys = 0, values = 0;  // of all heads
  uint64_t gated = 0;                                   // of queries with a gate each
  uint64_t rank = 0, shared = 0;  // of latent attention: the wider latent, channels that heads share
  uint64_t sums = 0;              // of a product of attention
  uint64_t inner = 0;             // of an MLP
  uint64_t experts = 0, top = 0;  // 0: all layers are dense
  struct DeltaNet {
    uint64_t projected = 0;                        // of a product of its input
    uint64_t channels = 0, values = 0, heads = 0;  // of the convolution; of values and their heads
    uint64_t history = 0, state = 0;               // of a row that is cut
  };
  DeltaNet delta_net = {};  // 0: no layer has one

  explicit DecoderWidths(const DecoderSpec& spec);
};

// The rotary tables of all layers, each once.
std::vector<RopeSpec> distinct_ropes(const DecoderSpec& spec);

// What stays while the forward pass lives.
template <class T>
struct ResidualBuffers {
  T* x = nullptr;        // [tokens, D]; null where it is in host memory
  float* sum = nullptr;  // [tokens, D]: what a layer's experts add; null without experts
  RoutingBuffers routing = {};

  ResidualBuffers(Arena& arena, const DecoderWidths& widths, uint64_t tokens, bool resident);
};

// Of a chunk of C tokens on its way through attention; keys and values of all of its rows.
template <class T>
struct AttentionBuffers {
  T* in = nullptr;                 // [C, D]
  T *q = nullptr, *out = nullptr;  // [C, heads]
  T* gates = nullptr;              // [C, heads] of layers with an output gate
  T *k = nullptr, *v = nullptr;    // [tokens of a group, kv heads]
  float* sums = nullptr;           // [C, the widest product]
  T* rank = nullptr;               // [C, rank], of latent attention; the same:
  float* position = nullptr;       // [C, channels that heads share]
  T* shared = nullptr;             // [C, those, turned]

  AttentionBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                   const DecoderSizes& sizes);
};

// Of a chunk of C tokens on its way through a gated delta net.
template <class T>
struct DeltaNetBuffers {
  T* in = nullptr;                   // [C, D]
  float *x = nullptr, *z = nullptr;  // [C, channels], [C, values]
  float *a = nullptr, *b = nullptr;  // [C, value heads]
  float* sums = nullptr;             // [C, the widest of products, channels and D]
  float* o = nullptr;                // [C, values]
  T* out = nullptr;                  // [C, values]
  DeltaNetCarry carry = {};

  DeltaNetBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work,
                  const DecoderSizes& sizes);
  DeltaNetInputs inputs() const { return {.x = x, .z = z, .a = a, .b = b}; }
};

// Of a chunk of M tokens on its way through router, experts, MLP.
template <class T>
struct FfnBuffers {
  T *in = nullptr, *act = nullptr;                    // [M, D], [M, I]
  float* y = nullptr;                                 // [M, D]
  float* logits = nullptr;                            // [M, E], of the router
  float* gate_up = nullptr;                           // [M, 2 I]; where weights are dequantized
  T *gate = nullptr, *up = nullptr, *down = nullptr;  // [I, D], [I, D], [D, I]; the same

  FfnBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work, const DecoderSizes& sizes);
};

// After the last layer.
template <class T>
struct HeadBuffers {
  int32_t* targets = nullptr;      // [tokens]
  CrossEntropy* states = nullptr;  // [tokens]
  std::byte* stored[2] = {};       // [kHeadRows, D] in BF16 or T, one after the other
  T* rows = nullptr;               // the same in T, where weights are dequantized and T is another type
  float* logits = nullptr;         // [kHeadTokens, kHeadRows]

  HeadBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work, const DecoderSizes& sizes);
};

// The buffers of which one set is in use at a time, and before them a chunk of the residual stream where that
// is in host memory.
template <class T>
struct WorkBuffers {
  T* x = nullptr;      // [the most of C, M and kHeadTokens, D]
  uint64_t begin = 0;  // of each set, in the block
  AttentionBuffers<T> attention;
  DeltaNetBuffers<T> delta_net;
  FfnBuffers<T> ffn;
  HeadBuffers<T> head;

  WorkBuffers(Arena& arena, const DecoderWidths& widths, const CudaWorkload& work, const DecoderSizes& sizes,
              bool resident);
};

// What a device knows of tokens and rows.
struct CudaTokenBuffers {
  int32_t* ids = nullptr;               // [tokens]
  uint32_t* positions = nullptr;        // [tokens], in the token's row
  uint32_t* findings = nullptr;         // model/decoder/findings.h
  std::vector<Rope::Turn*> turns = {};  // [longest row, pairs] of each of distinct_ropes()

  CudaTokenBuffers(Arena& arena, const DecoderSpec& spec, const CudaWorkload& work);
};

// Peak bytes of a pass on the CPU, as forward_memory_bytes() (model/forward_pass.h) has it.
template <class T>
uint64_t decoder_memory_bytes(const Model& model, uint64_t tokens, uint64_t longest_row, size_t threads);

// Of the dense weights of a layer: the most of any.
CudaLayerBytes decoder_layer_bytes(const Model& model, size_t element_bytes);

// As fit_cuda_memory(). The residual stream of a model with experts is always resident: every expert takes
// its tokens from all of it. expert_bytes 0: the largest MLP's in BF16.
template <class T>
CudaMemory decoder_cuda_memory(const Model& model, const CudaWorkload& work, uint64_t expert_bytes,
                               uint64_t limit_bytes);

}  // namespace nibblecast
