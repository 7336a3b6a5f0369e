// Any bytes as config.json: refused with Error, or a configuration that holds what its contract says, also
// when it is written in transformers' spelling and read again; and the documents that are made of it.
#include <string>

#include "base/json.h"
#include "checkpoint/manifest.h"
#include "fuzzing.h"
#include "model/deepseek_v4_config.h"
#include "model/deepseek_v4_tensors.h"

namespace nibblecast {
namespace {

using fuzzing::require;

void try_documents(std::string_view text) {
  const Json config = parse_json(text, "config");
  require(parse_json(config.dump(), "again") == config);
  require(dequantized_config(config, "bfloat16").is_object());
  require(mxfp4_config(config).is_object());
}

void try_family(std::string_view text) {
  const Json config = parse_json(text, "config");
  const DeepseekV4Config parsed = DeepseekV4Config::parse(config, "config");
  require(parsed.num_hidden_layers > 0 && parsed.hidden_size > 0 && parsed.tile_rows > 0);
  require(parsed.compress_ratios.size() == parsed.num_hidden_layers);
  const DeepseekV4Config again = DeepseekV4Config::parse(hub_config(config, parsed), "again");
  require(again.compress_ratios == parsed.compress_ratios && again.hidden_size == parsed.hidden_size);
  if (parsed.n_routed_experts <= 64) require(!layer_tensors(parsed, 0).empty());
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_documents(text); });
  fuzzing::refused_or([&] { try_family(text); });
  return 0;
}
