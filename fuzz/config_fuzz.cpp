// Any bytes as config.json: refused with Error, or a configuration that holds what its contract says, also
// when it is written in transformers' spelling and read again; and the documents that are made of it.
#include <string>

#include "base/json.h"
#include "checkpoint/manifest.h"
#include "fuzzing.h"
#include "model/families/deepseek_v4/config.h"
#include "model/family.h"

namespace nibblecast {
namespace {

using fuzzing::require;

void try_documents(std::string_view text) {
  const Json config = parse_json(text, "config");
  require(parse_json(config.dump(), "again") == config);
  require(dequantized_config(config, "bfloat16").is_object());
  require(mxfp4_config(config).is_object());
}

void check_layer(const LayerTable& layer) {
  for (const WeightModule& module : layer.modules) {
    require(!module.name.empty() && module.shape.size() == 2 && *element_count(module.shape) > 0);
    require(module.tap == kNoTap || module.tap < layer.taps.size());
    require(module.id.expert < static_cast<int64_t>(layer.experts));
  }
  for (const PlainTensor& tensor : layer.plain) require(element_count(tensor.shape).has_value());
  require(layer.top <= layer.experts);
}

// Of any family.
void try_model(std::string_view text) {
  const Json config = parse_json(text, "config");
  const Model model = read_model(config, "config");
  require(model.layers() > 0 && model.carried_width() > 0 && model.vocabulary.size > 0);
  check_layer(model.table.globals);
  for (const LayerTable& layer : model.table.layers) check_layer(layer);
  const Family& family = family_of(config, "config");
  if (model.table.most_experts() <= 64) require(!family.synth(model, 0).empty());
  if (family.hub_config == nullptr) return;
  const Json hub = family.hub_config(config, model);
  require(read_model(hub, "again").layers() == model.layers());
}

void try_v4(std::string_view text) {
  const Json config = parse_json(text, "config");
  const DeepseekV4Config parsed = DeepseekV4Config::parse(config, "config");
  require(parsed.num_hidden_layers > 0 && parsed.hidden_size > 0 && parsed.tile_rows > 0);
  require(parsed.compress_ratios.size() == parsed.num_hidden_layers);
  const DeepseekV4Config again = DeepseekV4Config::parse(hub_config(config, parsed), "again");
  require(again.compress_ratios == parsed.compress_ratios && again.hidden_size == parsed.hidden_size);
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_documents(text); });
  fuzzing::refused_or([&] { try_v4(text); });
  fuzzing::refused_or([&] { try_model(text); });
  return 0;
}
