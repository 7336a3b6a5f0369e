// checkpoint/tensor_role.h - what a tensor is for, by its name, for what people read: `inspect` and `report`.
// Nothing is decided by it; what decides goes by the model's table (model/model_table.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace nibblecast {

// "routed experts", "attention", "norms", ...; "other" where no name fits. DeepSeek's names and
// transformers'.
std::string_view tensor_role(std::string_view name);

// N of "layers.N." or "model.layers.N."; nullopt for all others.
std::optional<uint64_t> tensor_layer(std::string_view name);

// The tap (docs/formats/amax.md) that a linear reads, by the name of one of its tensors; empty where none
// fits.
std::string_view tensor_tap(std::string_view name);

}  // namespace nibblecast
