// model/families/deepseek_v4/family.h - DeepSeek-V4 as a Model.
#pragma once

#include "model/family.h"

namespace nibblecast {

extern const Family kDeepseekV4Family;

// The taps of a layer, which its forward pass records by these names.
namespace v4_tap {
inline constexpr const char* kAttentionIn = "attn.in";
inline constexpr const char* kQueryRank = "attn.q_rank";
inline constexpr const char* kAttentionOut = "attn.out";
inline constexpr const char* kOutRank = "attn.out_rank";
inline constexpr const char* kFfnIn = "ffn.in";
inline constexpr const char* kSharedMid = "shared.mid";
inline constexpr const char* kExpertsIn = "experts.in";
inline constexpr const char* kExpertsMid = "experts.mid";
}  // namespace v4_tap

}  // namespace nibblecast
