// calibration/amax_file.h - the amax file: what calibration measured, in one safetensors file that is whole
// and durable after every layer. Format: docs/formats/amax.md.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "model/activation_amax.h"

namespace nibblecast {

inline constexpr std::string_view kAmaxFormat = "nibblecast.amax/2";

struct AmaxFile {
  // Besides `format`: model and weights (identity hashes), calibration (of the rows), model_type, layers,
  // rows, tokens, compute_dtype, producer.
  std::map<std::string, std::string> metadata;
  std::vector<LayerAmax> layers;  // ascending; layers the file lacks are absent
};

// nullptr where there is no such layer.
const LayerAmax* find_layer(const std::vector<LayerAmax>& layers, uint64_t layer);

// Whether anything is known of the layer's experts.
bool knows_experts(const LayerAmax& layer);
// By the counts of tokens; where there are none, by an amax of 0.
std::vector<uint64_t> experts_without_tokens(const LayerAmax& layer);
// Experts that have tokens and an amax of 0, or no tokens and an amax: no calibration gives that.
std::vector<uint64_t> contradicting_experts(const LayerAmax& layer);

// Writes path.partial, syncs, renames: at every moment the file is whole.
void write_amax(FileSystem& files, const std::filesystem::path& path, const AmaxFile& amax);

// Version 2, or version 1, which names DeepSeek-V4's modules instead of taps. Accepts a file that holds just
// some of the tensors. Refuses (kBadInput, by tensor): another format, unknown names, wrong dtypes or shapes,
// NaN, infinite or negative values, vectors of one layer with different lengths. Second moments of routed
// experts are written with the layer's tokens.
AmaxFile read_amax(FileSystem& files, const std::filesystem::path& path);

}  // namespace nibblecast
