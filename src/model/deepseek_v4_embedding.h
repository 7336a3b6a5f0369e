// model/deepseek_v4_embedding.h - rows of embed.weight to the residual streams, on the CPU.
#pragma once

#include <cstdint>
#include <span>

#include "model/deepseek_v4_config.h"

namespace nibblecast {

// Refuses bytes that are not rows [first, first + count) of embed.weight (kBadInput).
void check_embedding_rows(const DeepseekV4Config& config, uint64_t first, uint64_t count,
                          std::span<const std::byte> bytes);

// Every token whose id is in [first, first + count): its row of `bytes` (BF16) to all of its streams
// [tokens, hc_mult, D]. The largest |x| taken.
template <class T>
float embed_tokens(const DeepseekV4Config& config, std::span<const int32_t> ids, uint64_t first,
                   uint64_t count, std::span<const std::byte> bytes, T* streams);

}  // namespace nibblecast
