// model/embedding.h - rows of an embedding to the residual streams, on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nibblecast {

struct EmbeddingShape {
  std::string name = {};  // of the tensor
  uint64_t vocabulary = 0, width = 0;
  size_t copies = 1;  // residual streams of a token, which begin alike
};

// Bytes of a stored value of rows [first, first + count) of the embedding: two of BF16, or those of T.
// Refuses bytes that are no such rows (kBadInput).
template <class T>
size_t check_embedding_rows(const EmbeddingShape& shape, uint64_t first, uint64_t count,
                            std::span<const std::byte> bytes);

// Every token whose id is in [first, first + count): its row of `bytes` (BF16, or T) to all of its streams
// [tokens, copies, width]. The largest |x| taken.
template <class T>
float embed_tokens(const EmbeddingShape& shape, std::span<const int32_t> ids, uint64_t first, uint64_t count,
                   std::span<const std::byte> bytes, T* streams);

}  // namespace nibblecast
