// Any bytes as the index of a checkpoint: refused with Error, or its parts agree with each other; and beside
// it a shard, which it may name: the checkpoint has the shard's tensors and no others.
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/index.h"
#include "checkpoint/safetensors.h"
#include "faults/memory_files.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

using fuzzing::put_file;
using fuzzing::require;

void try_index(std::string_view text) {
  const CheckpointIndex index = parse_index(text, "index");
  for (size_t i = 0; i < index.weight_map.size(); ++i) {
    require(index.weight_map[i].shard < index.shards.size());
    require(i == 0 || index.weight_map[i - 1].tensor < index.weight_map[i].tensor);
  }
  require(index.metadata.is_object());
  require(parse_json(text, "index").is_object());
}

const std::string& shard() {
  static const std::string bytes =
      write_safetensors_header(
          std::vector<Tensor>{
              {.name = "head.weight", .dtype = Dtype::kU8, .shape = {2, 2}, .offset = 0, .size_bytes = 4},
              {.name = "norm.weight", .dtype = Dtype::kU8, .shape = {4}, .offset = 4, .size_bytes = 4}},
          {}) +
      "01234567";
  return bytes;
}

void try_checkpoint(std::string_view text) {
  testing::MemoryFiles files;
  put_file(files, "/m/model.safetensors.index.json", text);
  put_file(files, "/m/model-00001-of-00001.safetensors", shard());
  const Checkpoint found = Checkpoint::open("/m", files, false);
  for (const Tensor& tensor : found.tensors())
    require(tensor.name == "head.weight" || tensor.name == "norm.weight");
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_index(text); });
  fuzzing::refused_or([&] { try_checkpoint(text); });
  return 0;
}
