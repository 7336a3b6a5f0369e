// tests/pipeline/pipeline_testing.h - small checkpoints, jobs over them, and their bytes.
#pragma once

#include <map>
#include <string>

#include "base/hash.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"
#include "pipeline/destination.h"
#include "pipeline/output.h"
#include "pipeline/run.h"
#include "pipeline/synth.h"
#include "testing.h"

namespace nibblecast::testing {

// Of a run that measures nothing, and takes nothing that was measured.
inline const Activations kNoActivations = {.rows = {}, .amax = {}, .origin = "", .identity = "none"};

// v4-tiny cut to a few experts, so that a job over it takes a fraction of a second.
inline void make_tiny_source(const std::filesystem::path& folder, uint64_t seed = 0) {
  synthesize(preset_config("v4-tiny"), "v4-tiny", {.seed = seed}, folder, system_files());
}

// Moves the shards of a checkpoint into a folder inside it, and its index with them.
inline void move_shards(FileSystem& files, const std::filesystem::path& checkpoint,
                        const std::string& folder) {
  const std::filesystem::path index_path = checkpoint / "model.safetensors.index.json";
  Json index = parse_json(read_text(files, index_path, 1 << 30), index_path.string());
  files.create_folders(checkpoint / folder);
  for (const std::string& name : files.list(checkpoint)) {
    if (name.ends_with(".safetensors")) files.rename(checkpoint / name, checkpoint / folder / name);
  }
  for (Json& shard : index["weight_map"]) shard = folder + "/" + shard.get<std::string>();
  write_text_durably(files, index_path, index.dump());
}

// Rows of ids that reach every part of a small model.
inline CalibrationRows tiny_rows(uint64_t vocab_size, size_t rows = 4, size_t length = 48) {
  CalibrationRows made;
  for (size_t row = 0; row < rows; ++row) {
    std::vector<int32_t> ids;
    for (size_t at = 0; at < length; ++at)
      ids.push_back(static_cast<int32_t>((row * 131 + at * 17 + at * at) % vocab_size));
    made.ids.push_back(std::move(ids));
  }
  return made;
}

// Every tap's amax: 1 + expert / 100 where each expert has one, of weighted taps a half, and a quarter times
// the routing weight; 2 where there is one value.
inline AmaxFile plain_amax(const Plan& plan) {
  AmaxFile amax;
  for (uint64_t layer = 0; layer < plan.layers(); ++layer) {
    const LayerTable& table = plan.model->table.layers[layer];
    LayerAmax& one = amax.layers.emplace_back();
    one.layer = layer;
    one.tokens.assign(table.experts, 10);
    for (const Tap& tap : table.taps) {
      if (tap.experts == 0) one.taps[tap.name] = {2};
      for (uint64_t expert = 0; expert < tap.experts; ++expert) {
        const float value = 1 + static_cast<float>(expert) / 100;
        one.taps[tap.name].push_back(tap.weighted ? value / 2 : value);
        if (tap.weighted) one.taps[weighted_tap(tap.name)].push_back(value / 4);
      }
    }
  }
  return amax;
}

inline RunOptions small_buffers(uint64_t bytes = 32 << 20) {
  RunOptions options;
  options.read_memory_bytes = options.write_memory_bytes = bytes;
  return options;
}

inline JobDescription describe(const Checkpoint& source, const Plan& plan, const Activations& activations) {
  return describe_job(source, run_identity(source, plan, activations), Json::object());
}

// The whole job, as the command does it.
inline RunRecord run_job(const Checkpoint& source, const Plan& plan, const Activations& activations,
                         const std::filesystem::path& destination,
                         const RunOptions& options = small_buffers()) {
  nibblecast::Job job = open_destination(source, destination, {}, describe(source, plan, activations), plan);
  const RunRecord record = quantize(source, plan, activations, job, destination, options);
  finish_output(source, plan, activations, record, job, destination);
  return record;
}

// Hash of every file below a folder except nibblecast.json, which holds times.
inline std::map<std::string, std::string> folder_hashes(const std::filesystem::path& folder) {
  std::map<std::string, std::string> hashes;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.path().filename() == "nibblecast.json") continue;
    Hash hash;
    hash.add(read_text(system_files(), entry.path(), 1 << 30));
    hashes[entry.path().lexically_relative(folder).string()] = hash.hex();
  }
  return hashes;
}

}  // namespace nibblecast::testing
