#include "model/deepseek_v4_embedding.h"

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/tensor.h"
#include "ops/amax.h"
#include "ops/weight.h"

namespace nibblecast {

void check_embedding_rows(const DeepseekV4Config& config, uint64_t first, uint64_t count,
                          std::span<const std::byte> bytes) {
  if (bytes.size() == count * config.hidden_size * sizeof(bf16) && first + count <= config.vocab_size) return;
  throw Error(ErrorKind::kBadInput, {.tensor = "embed.weight"}, "does not fit the model's configuration",
              {.expected = shape_text({config.vocab_size, config.hidden_size}) + " BF16"});
}

template <class T>
float embed_tokens(const DeepseekV4Config& config, std::span<const int32_t> ids, uint64_t first,
                   uint64_t count, std::span<const std::byte> bytes, T* streams) {
  const size_t width = config.hidden_size;
  const Bf16View embedding{bytes.data(), count, width};
  Amax seen;
  parallel_for(ids.size(), [&](size_t token) {
    const uint64_t id = static_cast<uint64_t>(ids[token]);
    if (id < first || id >= first + count) return;
    T* to = streams + token * config.hc_mult * width;
    read_weight(embedding, id - first, 1, to);
    seen.add(amax(to, width));
    for (size_t stream = 1; stream < config.hc_mult; ++stream) std::copy_n(to, width, to + stream * width);
  });
  return seen.value();
}

template float embed_tokens(const DeepseekV4Config&, std::span<const int32_t>, uint64_t, uint64_t,
                            std::span<const std::byte>, float*);
template float embed_tokens(const DeepseekV4Config&, std::span<const int32_t>, uint64_t, uint64_t,
                            std::span<const std::byte>, bf16*);

}  // namespace nibblecast
