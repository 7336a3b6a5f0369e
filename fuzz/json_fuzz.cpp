// Any bytes as an index, and as a config: refused with Error, or read.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/index.h"
#include "checkpoint/manifest.h"

namespace nibblecast {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void try_index(std::string_view text) {
  const CheckpointIndex index = parse_index(text, "index");
  for (size_t i = 0; i < index.weight_map.size(); ++i) {
    require(index.weight_map[i].shard < index.shards.size());
    require(i == 0 || index.weight_map[i - 1].tensor < index.weight_map[i].tensor);
  }
  require(index.metadata.is_object());
  require(parse_json(text, "index").is_object());
}

void try_config(std::string_view text) {
  const Json config = parse_json(text, "config");
  require(parse_json(config.dump(), "again") == config);
  const std::vector<std::string> modules = {"layers.0.ffn.experts"};
  const Json output = nvfp4_experts_config(config, modules, "1");
  require(output["quantization_config"]["quant_algo"].get<std::string>() == "MIXED_PRECISION");
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  for (const auto f : {nibblecast::try_index, nibblecast::try_config}) {
    try {
      f(text);
    } catch (const nibblecast::Error&) {
    }
  }
  return 0;
}
