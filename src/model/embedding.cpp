#include "model/embedding.h"

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/tensor.h"
#include "ops/amax.h"
#include "ops/weight.h"

namespace nibblecast {

template <class T>
size_t check_embedding_rows(const EmbeddingShape& shape, uint64_t first, uint64_t count,
                            std::span<const std::byte> bytes) {
  for (const size_t size : {sizeof(bf16), sizeof(T)})
    if (bytes.size() == count * shape.width * size && first + count <= shape.vocabulary) return size;
  throw Error(ErrorKind::kBadInput, {.tensor = shape.name}, "does not fit the model's configuration",
              {.expected = shape_text({shape.vocabulary, shape.width}) + " BF16"});
}

template <class T>
float embed_tokens(const EmbeddingShape& shape, std::span<const int32_t> ids, uint64_t first, uint64_t count,
                   std::span<const std::byte> bytes, T* streams) {
  const size_t width = shape.width;
  StoredLinear embedding = Bf16View{bytes.data(), count, width};
  if (check_embedding_rows<T>(shape, first, count, bytes) == sizeof(float))
    embedding = F32View{bytes.data(), count, width};
  Amax seen;
  parallel_for(ids.size(), [&](size_t token) {
    const uint64_t id = static_cast<uint64_t>(ids[token]);
    if (id < first || id >= first + count) return;
    T* to = streams + token * shape.copies * width;
    read_weight(embedding, id - first, 1, to);
    seen.add(amax(to, width));
    for (size_t stream = 1; stream < shape.copies; ++stream) std::copy_n(to, width, to + stream * width);
  });
  return seen.value();
}

template size_t check_embedding_rows<float>(const EmbeddingShape&, uint64_t, uint64_t,
                                            std::span<const std::byte>);
template size_t check_embedding_rows<bf16>(const EmbeddingShape&, uint64_t, uint64_t,
                                           std::span<const std::byte>);
template float embed_tokens(const EmbeddingShape&, std::span<const int32_t>, uint64_t, uint64_t,
                            std::span<const std::byte>, float*);
template float embed_tokens(const EmbeddingShape&, std::span<const int32_t>, uint64_t, uint64_t,
                            std::span<const std::byte>, bf16*);

}  // namespace nibblecast
