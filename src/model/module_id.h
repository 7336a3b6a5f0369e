// model/module_id.h - what a tensor of a model is for, whatever a checkpoint calls it.
#pragma once

#include <compare>
#include <cstdint>

namespace nibblecast {

enum class Role : uint8_t {
  kEmbedding,
  kHead,
  // Grouped-query attention.
  kQ,
  kK,
  kV,
  kO,
  // DeepSeek-V4's latent attention: queries through a rank, one latent for keys and values, the output
  // through groups of ranks; its compressors and its indexer.
  kQA,
  kQB,
  kKv,
  kOA,
  kOB,
  kCompressKv,
  kCompressGate,
  kIndexQ,
  kIndexWeights,
  kIndexCompressKv,
  kIndexCompressGate,
  // Multi-head latent attention, beside kQA, kQB (or kQ), kO and the indexer's kIndexQ, kIndexWeights.
  kKvA,
  kKvB,
  kIndexK,
  // A gated delta net: its input's products, split or by key head; the output's is kO.
  kDeltaQkv,
  kDeltaZ,
  kDeltaB,
  kDeltaA,
  kDeltaQkvz,
  kDeltaBa,
  // Linears of mixers that no forward pass has.
  kMixerIn,
  kMixerOut,
  kMixerOther,
  // The feed-forward half.
  kRouter,
  kGate,
  kUp,
  kDown,
  kGateUp,      // both, in one tensor
  kSharedGate,  // of the shared expert's output
  // What is no linear.
  kInputNorm,  // before the layer's first half
  kFfnNorm,    // before its second half
  kQNorm,
  kKNorm,
  kQRankNorm,   // of a latent of queries
  kKvRankNorm,  // of one of keys and values
  kFinalNorm,   // before the head
  kSinks,
  kFilter,    // of a gated delta net's convolution, [channels, 1, taps]
  kDecayLog,  // and its numbers of each value head
  kStepBias,
  kOutNorm,     // and its norm of each head's output
  kRouterBias,  // added to the scores that choose, not to the weights
  kOther,
};

// One module of a model. layer -1: none (embedding, head). expert -1: no routed expert.
struct ModuleId {
  int32_t layer = -1, expert = -1;
  bool shared = false;  // of the shared expert
  Role role = Role::kOther;
  auto operator<=>(const ModuleId&) const = default;
};

}  // namespace nibblecast
