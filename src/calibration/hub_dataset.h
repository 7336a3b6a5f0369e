// calibration/hub_dataset.h - published data sets: those that ModelOpt calibrates on, and the one that
// published perplexities are of; as downloads hold them.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace nibblecast {

// Source: SUPPORTED_DATASET_CONFIG of ModelOpt 0.47's modelopt/torch/utils/dataset_utils.py; of wikitext2 the
// perplexity guide of transformers' documentation (docs/source/en/perplexity.md).
struct HubDataset {
  std::string_view name;
  std::string_view repository;
  std::string_view folder;  // of its files in the repository
  std::vector<std::string_view> splits;
  std::string_view column;
  std::string_view first_files;  // glob in the repository: the first file of each split
  bool is_one_text = false;      // records are its lines, joined by "\n\n"
  bool is_one_of_many = false;   // of its repository, which therefore does not name it
  bool is_gated = false;         // asks for an account's consent, so a download needs its token
};
std::span<const HubDataset> hub_datasets();

// "OWNER/NAME" as people write a data set of the Hub: hf://datasets/OWNER/NAME, datasets/OWNER/NAME, an
// address of huggingface.co, or just that; nullopt for anything else.
std::optional<std::string> hub_repository(std::string_view name);

// The data set that this names (its name, or its repository as hub_repository() reads it; upper and lower
// case are the same), or whose repository's name is a part of this path; nullptr if there is none.
const HubDataset* find_dataset(std::string_view name);
const HubDataset* dataset_of_folder(const std::filesystem::path& folder);

// The first files of a split, in order.
struct SplitFiles {
  std::vector<std::string> files;  // never empty
  bool is_complete = true;         // whether these are all of the split
};

// Whether one of `roots` has the first file of every split.
bool has_splits(FileSystem& files, const HubDataset& dataset,
                const std::vector<std::filesystem::path>& roots);
// One entry a split. A root is a copy of the repository, whole or in part; the first of `roots` with the
// first file of every split counts. kBadInput with the command that downloads it: none; numbers that
// contradict.
std::vector<SplitFiles> find_splits(FileSystem& files, const HubDataset& dataset,
                                    const std::vector<std::filesystem::path>& roots);
// Where the Hub's clients keep downloads: HF_HUB_CACHE, HF_HOME/hub, or the user's cache folder.
std::filesystem::path hub_cache();
// Where the Hub's cache keeps a data set: its snapshots, that of `main` first.
std::vector<std::filesystem::path> cached_roots(FileSystem& files, const HubDataset& dataset,
                                                const std::filesystem::path& cache);

// "hf download ... --include 'GLOB'", and what a gated one needs.
std::string download_hint(const HubDataset& dataset, std::string_view glob);

}  // namespace nibblecast
