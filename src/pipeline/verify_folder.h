// pipeline/verify_folder.h - an output as it lies in a folder, whatever its state. Checkpoint::open refuses
// at the first fault; here every fault becomes a line and what can be read is read.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/tensor.h"
#include "pipeline/problem_list.h"

namespace nibblecast {

struct OutputFolder {
  std::filesystem::path path;
  // Null where absent or unreadable.
  Json config, hf_quant_config, run_document, index_metadata;
  bool has_hf_quant_config = false;  // there is such a file; the plan says whether there must be
  std::vector<std::string> shards;   // readable ones, by name
  std::vector<Tensor> tensors;       // Tensor::shard is an index into `shards`
  std::unordered_map<std::string_view, uint32_t> by_name;  // into `tensors`
  // Tensors that the index places in shards that cannot be read.
  std::unordered_set<std::string> unreadable;
  bool all_shards_read = true;

  const Tensor* find(std::string_view name) const;  // nullptr where absent
};

// Adds what is wrong with the folder, its JSON files, the shards' headers and the index to `problems`.
// Throws kBadInput if `path` is no folder, kIo.
OutputFolder read_output_folder(const std::filesystem::path& path, FileSystem& files, ProblemList& problems);

// README.md and README.source.md, which whoever publishes a model edits.
bool is_model_card(std::string_view name);
// What an adapter beside an output means; nothing where there is none.
std::optional<std::string> adapter_problem(const std::filesystem::path& folder, FileSystem& files);
// Whether a relative path stays in its folder.
bool is_inside(const std::filesystem::path& relative);

// A run began it and has not ended: no config.json, but its job, or shards that have no name yet.
bool is_unfinished_output(const std::filesystem::path& path, FileSystem& files);

}  // namespace nibblecast
