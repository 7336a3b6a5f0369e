// checkpoint/fetch_ahead.h - many small parts of tensors on a server, at once.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace nibblecast {

// Bytes of a tensor, of which `begin` is the first.
struct TensorPart {
  const Tensor* tensor = nullptr;
  uint64_t size_bytes = 0, begin = 0;
};

// For what will be read one by one through TensorReader: of files on a server it is fetched now, over many
// requests at once, and held there (remote/remote_folder.h). Files on this machine are not touched. Errors:
// as of reading.
void fetch_ahead(const Checkpoint& source, std::vector<TensorPart> parts);

}  // namespace nibblecast
