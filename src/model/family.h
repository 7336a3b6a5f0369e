// model/family.h - the families of models that are known: a family is a function from a config to a Model,
// and a few facts about how its checkpoints are written.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/model.h"
#include "model/synth_tensor.h"

namespace nibblecast {

struct Preset {
  std::string_view name;  // "v4-pro"
  Json (*config)();       // a config.json as the release has it
};

// Where a tensor stands in the state of transformers' model, if it has another name there. Routed experts may
// be stacked.
struct HubTensor {
  std::string name = {};            // "model.layers.3.mlp.experts.gate_up_proj"
  uint64_t part = 0, parts = 1;     // of as many equal ones, in order, without gaps
  std::optional<Shape> whole = {};  // of a stacked tensor
};

struct Family {
  std::string_view name;                          // "deepseek_v4"
  std::span<const std::string_view> model_types;  // of config.json
  // Refuses (kBadInput / kUnsupported, naming `file`, the key, expected, found) what is missing, mistyped,
  // absurd or contradicting, and options of the family's code that the forward pass lacks.
  Model (*read)(const Json& config, const std::string& file);
  std::span<const Preset> presets;
  // A checkpoint as its releases store it: the tensors of a layer (of layers(): of the draft layer that the
  // family synthesizes, if it does; nothing: those outside of layers).
  std::vector<SynthTensor> (*synth)(const Model& model, std::optional<uint64_t> layer);
  // Null where releases have transformers' names and spelling already. Else: a tensor's place by its own
  // name, nothing for a name that the table does not have; and config.json in transformers' spelling.
  std::optional<HubTensor> (*hub_tensor)(const Model& model, std::string_view name) = nullptr;
  Json (*hub_config)(const Json& config, const Model& model) = nullptr;
};

std::span<const Family* const> families();
// By model_type. kUnsupported, naming the families that are known.
const Family& family_of(const Json& config, const std::string& file);
Model read_model(const Json& config, const std::string& file);
// Whose model it is: Model::family is one of its model_types, or its name.
const Family& family_named(std::string_view name);

// Of all families; and the config of one. Error kUsage for another name.
std::vector<std::string_view> preset_names();
Json preset_config(std::string_view name);

}  // namespace nibblecast
