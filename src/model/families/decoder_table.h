// model/families/decoder_table.h - what tensors a decoder has, named as its family's checkpoints name them.
#pragma once

#include "model/decoder_spec.h"
#include "model/families/decoder_row.h"
#include "model/model_table.h"

namespace nibblecast {

// The taps of a layer, which its forward pass records by these names.
namespace decoder_tap {
inline constexpr const char* kAttentionIn = "attn.in";    // q, k, v; q_a, kv_a and the indexer's
inline constexpr const char* kQueryRank = "attn.q_rank";  // q_b, the indexer's wq_b
inline constexpr const char* kKvRank = "attn.kv_rank";    // kv_b
inline constexpr const char* kAttentionOut = "attn.out";  // o
inline constexpr const char* kKeys = "attn.k";            // as they are cached
inline constexpr const char* kValues = "attn.v";
inline constexpr const char* kFfnIn = "ffn.in";            // router; gate and up, dense or shared
inline constexpr const char* kFfnMid = "ffn.mid";          // the dense down
inline constexpr const char* kExpertsIn = "experts.in";    // an expert's gate and up
inline constexpr const char* kExpertsMid = "experts.mid";  // its down
inline constexpr const char* kSharedMid = "shared.mid";    // the shared expert's down
}  // namespace decoder_tap

// Modules of a layer: q, k, v, o, or q_a, kv_a, q_b, kv_b, o and the indexer's, or a delta net's products and
// its o; the router, the shared expert's gate, gate, up and down of a dense layer or of the shared expert,
// then those of the routed experts, ascending. A bias is a plain tensor with the id of its module.
ModelTable decoder_table(const DecoderSpec& spec, const DecoderRow& row, bool tied_head);

}  // namespace nibblecast
