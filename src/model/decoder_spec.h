// model/decoder_spec.h - how a decoder of ordinary blocks computes, as a value: norm, a mixer of tokens
// (grouped-query attention, latent attention or a gated delta net), norm, MLP or experts, layer after layer,
// on one residual stream.
//
//   x += mixer(norm(x));  x += ffn(norm(x))
//
// A family's reader makes it from a config; the forward pass (model/decoder.h) knows nothing else.
// Formulas: ops/gqa.h, latent_heads.h, delta_net.h, gates.h, heads.h, rope_table.h, activation.h, router.h,
// rmsnorm.h.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "ops/activation.h"
#include "ops/delta_net.h"
#include "ops/gqa.h"
#include "ops/latent_heads.h"
#include "ops/rmsnorm.h"
#include "ops/rope_table.h"
#include "ops/router.h"

namespace nibblecast {

struct NormSpec {
  float eps = 1e-6f;
  NormWeight use = NormWeight::kRoundedTimes;
  bool operator==(const NormSpec&) const = default;
};

enum class HeadNorms : uint8_t {
  kNone,
  kPerHead,  // q_norm and k_norm over the channels of a head, before RoPE
  kAll,      // over all heads' channels together
};

struct GqaSpec {
  uint64_t heads = 0, kv_heads = 0, width = 0;  // width: channels of a head
  RopeSpec rope = {};                           // dims 0: none
  float scale = 1;                              // of scores
  uint64_t window = 0;                          // keys that a query sees, its own included; 0: all before it
  HeadNorms head_norms = HeadNorms::kNone;
  bool sinks = false;     // a logit a head that takes part in the softmax and brings no value
  bool qkv_bias = false;  // of q, k and v
  bool o_bias = false;
  bool output_gate =
      false;  // q makes [query | gate] of each head; the output is times sigmoid(gate) before o
  bool operator==(const GqaSpec&) const = default;
};

// Which keys a query sees where a row has more than most_keys tokens. Shorter rows need none.
struct IndexerSpec {
  uint64_t heads = 0, width = 0;
  bool operator==(const IndexerSpec&) const = default;
};

// Multi-head latent attention. q = q_b(norm(q_a x)), or q_proj x without a rank;
// [latent, shared] = kv_a x;  keys and values of the heads: spread_latent(kv_b(norm(latent)), rope(shared)).
struct MlaSpec {
  LatentHeads heads = {};
  uint64_t q_rank = 0;  // 0: queries are projected at once
  uint64_t kv_rank = 0;
  RopeSpec rope = {};      // of the channels that heads share, the last ones of a query; dims 0: none
  float scale = 1;         // of scores
  float rank_eps = 1e-6f;  // of the two norms inside
  uint64_t most_keys = 0;  // that a query sees, by the indexer of this layer or of one before; 0: all
  std::optional<IndexerSpec> indexer = {};
  bool operator==(const MlaSpec&) const = default;
};

// What scores and sums of attention are made of.
inline GqaShape score_shape(const GqaSpec& gqa) {
  return {.heads = gqa.heads,
          .kv_heads = gqa.kv_heads,
          .key_width = gqa.width,
          .value_width = gqa.width,
          .scale = gqa.scale,
          .window = gqa.window};
}
inline GqaShape score_shape(const MlaSpec& mla) {
  return {.heads = mla.heads.heads,
          .kv_heads = mla.heads.heads,
          .key_width = mla.heads.key_width(),
          .value_width = mla.heads.value,
          .scale = mla.scale};
}

// The products that it begins with: one each of [q | k | v], z, b, a, or two whose rows are dealt out by key
// head, [q | k | v | z] and [b | a].
enum class DeltaNetInput : uint8_t { kSplit, kByHead };

struct DeltaNetSpec {
  DeltaNetShape shape = {};
  DeltaNetInput input = DeltaNetInput::kSplit;
  bool operator==(const DeltaNetSpec&) const = default;
};

using MixerSpec = std::variant<GqaSpec, MlaSpec, DeltaNetSpec>;

// Of softmax attention; nothing for a mixer that has none.
inline std::optional<GqaShape> score_shape(const MixerSpec& mixer) {
  if (const auto* gqa = std::get_if<GqaSpec>(&mixer)) return score_shape(*gqa);
  if (const auto* mla = std::get_if<MlaSpec>(&mixer)) return score_shape(*mla);
  return std::nullopt;
}
// Null where positions do not turn anything.
inline const RopeSpec* rope_of(const MixerSpec& mixer) {
  if (const auto* gqa = std::get_if<GqaSpec>(&mixer)) return &gqa->rope;
  if (const auto* mla = std::get_if<MlaSpec>(&mixer)) return &mla->rope;
  return nullptr;
}

struct MlpSpec {
  uint64_t width = 0;
  Activation activation = {};
  bool bias = false;
  bool operator==(const MlpSpec&) const = default;
};

struct MoeSpec {
  RouterSpec router = {};
  bool choice_bias = false;  // Role::kRouterBias is added to the scores that choose
  MlpSpec expert = {};
  std::optional<MlpSpec> shared = {};
  bool shared_gate = false;  // the shared expert's output is times sigmoid(Role::kSharedGate · x)
  bool operator==(const MoeSpec&) const = default;
};

struct DecoderLayer {
  MixerSpec mixer = {};
  std::variant<MlpSpec, MoeSpec> ffn = {};
  bool operator==(const DecoderLayer&) const = default;
};

struct DecoderSpec {
  uint64_t hidden = 0, vocab = 0;
  NormSpec norm = {};
  std::vector<DecoderLayer> layers = {};
  uint64_t longest_row = 0;  // queries of later positions are scaled, which is not done; 0: never
  bool operator==(const DecoderSpec&) const = default;
};

}  // namespace nibblecast
