// checkpoint/index.h - model.safetensors.index.json: {"metadata": {...}, "weight_map": {tensor: shard}}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibblecast {

struct CheckpointIndex {
  struct Entry {
    std::string tensor = {};
    uint32_t shard = 0;  // index into `shards`
  };
  std::vector<std::string> shards;  // file names, sorted
  std::vector<Entry> weight_map;    // sorted by tensor
  Json metadata = Json::object();   // empty where the file has none
};

// Errors (kBadInput) name `file`, tensor and byte offset: text that is not such an object, a tensor twice, a
// shard that is absolute, holds "..", is empty or has control characters in its name. Other keys at the top
// are passed over.
CheckpointIndex parse_index(std::string_view text, const std::string& file);

}  // namespace nibblecast
