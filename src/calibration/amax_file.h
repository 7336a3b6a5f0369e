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

inline constexpr std::string_view kAmaxFormat = "nibblecast.amax/1";

struct AmaxFile {
  // Besides `format`: model (identity hash), model_type, layers, rows, tokens, compute_dtype, producer.
  std::map<std::string, std::string> metadata;
  std::vector<LayerAmax> layers;  // ascending; layers the file lacks are absent
};

// Writes path.partial, syncs, renames: at every moment the file is whole.
void write_amax(FileSystem& files, const std::filesystem::path& path, const AmaxFile& amax);

// Accepts a file that holds just some of the tensors (say only `...experts.w13.input_amax`): missing vectors
// are empty, missing scalars absent. Refuses (kBadInput, by tensor): another format, unknown names, wrong
// dtypes or shapes, NaN, infinite or negative values, vectors of one layer with different lengths.
AmaxFile read_amax(FileSystem& files, const std::filesystem::path& path);

}  // namespace nibblecast
