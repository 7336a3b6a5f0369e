#include "model/families/deepseek_v4/rows.h"

#include <optional>

namespace nibblecast {

EmbeddingShape embedding_shape(const DeepseekV4Config& config) {
  return {.name = "embed.weight",
          .vocabulary = config.vocab_size,
          .width = config.hidden_size,
          .copies = config.hc_mult};
}

Rope make_rope(const RopeConfig& config, size_t dims, size_t positions) {
  std::optional<Yarn> yarn;
  if (config.yarn) {
    yarn = Yarn{.factor = config.factor,
                .beta_fast = config.beta_fast,
                .beta_slow = config.beta_slow,
                .original_length = static_cast<double>(config.original_max_position_embeddings)};
  }
  return Rope(rope_frequencies(config.theta, dims, yarn), positions);
}

}  // namespace nibblecast
