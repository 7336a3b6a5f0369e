// model/families/deepseek_v4/rows.h - DeepSeek-V4's embedding and rotary tables for rows of tokens
// (model/token_rows.h).
#pragma once

#include "model/families/deepseek_v4/config.h"
#include "model/embedding.h"
#include "model/token_rows.h"
#include "ops/rope.h"

namespace nibblecast {

EmbeddingShape embedding_shape(const DeepseekV4Config& config);
Rope make_rope(const RopeConfig& config, size_t dims, size_t positions);

}  // namespace nibblecast
