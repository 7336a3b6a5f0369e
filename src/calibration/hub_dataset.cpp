#include "calibration/hub_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <optional>

#include "base/cut.h"
#include "base/error.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

std::string lower(std::string_view text) {
  std::string low(text);
  std::transform(low.begin(), low.end(), low.begin(), [](unsigned char c) { return std::tolower(c); });
  return low;
}

// "Nemotron-Post-Training-Dataset-v2" of "nvidia/Nemotron-Post-Training-Dataset-v2".
std::string_view repository_name(const HubDataset& dataset) {
  return dataset.repository.substr(dataset.repository.find('/') + 1);
}

// "datasets--nvidia--Nemotron-Post-Training-Dataset-v2", as the Hub's cache has it.
std::string cache_name(const HubDataset& dataset) {
  std::string name = "datasets--" + std::string(dataset.repository);
  return name.replace(name.find('/'), 1, "--");
}

// Where a file stands in its split.
struct FilePlace {
  uint64_t index = 0, total = 1;
};

// "train.parquet", "train-00000-of-00003.parquet", "train-00000-of-00003-<hash>.parquet"; or .jsonl.
std::optional<FilePlace> parse_place(std::string_view name, std::string_view split) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view extension = name.substr(dot);
  if (extension != ".parquet" && extension != ".jsonl") return std::nullopt;
  name = name.substr(0, dot);
  if (!take(name, split)) return std::nullopt;
  if (name.empty()) return FilePlace{};
  if (!take(name, "-")) return std::nullopt;
  const auto index = take_number(name);
  if (!index || !take(name, "-of-")) return std::nullopt;
  const auto total = take_number(name);
  if (!total || !(name.empty() || name.front() == '-')) return std::nullopt;
  return FilePlace{*index, *total};
}

// The files from number 0 on, as far as there is no gap; nullopt without number 0.
std::optional<SplitFiles> find_split(FileSystem& files, const Path& folder, std::string_view split) {
  std::map<uint64_t, std::string> by_index;
  std::optional<uint64_t> total;
  for (const std::string& name : files.list(folder)) {
    const auto place = parse_place(name, split);
    if (!place) continue;
    if (place->index >= place->total || (total && *total != place->total)) {
      throw Error(ErrorKind::kBadInput, {.file = (folder / name).string()},
                  "its number does not fit those of its neighbours",
                  {.found = fmt::format("{} of {}", place->index, place->total),
                   .hint = "the folder mixes two downloads, or a file was renamed"});
    }
    total = place->total;
    by_index.try_emplace(place->index, (folder / name).string());  // .jsonl, listed first, wins over .parquet
  }
  SplitFiles found;
  for (const auto& [index, path] : by_index) {
    if (index != found.files.size()) break;
    found.files.push_back(path);
  }
  if (found.files.empty()) return std::nullopt;
  found.is_complete = found.files.size() == *total;
  return found;
}

// nullopt if a split is absent.
std::optional<std::vector<SplitFiles>> find_in_folder(FileSystem& files, const HubDataset& dataset,
                                                      const Path& folder) {
  const auto status = files.status(folder);
  if (!status || !status->is_folder) return std::nullopt;
  std::vector<SplitFiles> splits;
  for (const std::string_view split : dataset.splits) {
    auto found = find_split(files, folder, split);
    if (!found) return std::nullopt;
    splits.push_back(std::move(*found));
  }
  return splits;
}

// nullopt where no root has the first file of every split.
std::optional<std::vector<SplitFiles>> find_in_roots(FileSystem& files, const HubDataset& dataset,
                                                     const std::vector<Path>& roots) {
  for (const Path& root : roots) {
    for (const Path& folder : {root / dataset.folder, root}) {
      if (auto splits = find_in_folder(files, dataset, folder)) return splits;
    }
  }
  return std::nullopt;
}

}  // namespace

std::span<const HubDataset> hub_datasets() {
  static const std::vector<HubDataset> datasets = {
      {.name = "cnn_dailymail",
       .repository = "abisee/cnn_dailymail",
       .folder = "3.0.0",
       .splits = {"train"},
       .column = "article",
       .first_files = "3.0.0/train-00000-of-*"},
      // The glob leaves out multilingual_*, which ModelOpt does not sample.
      {.name = "nemotron-post-training-dataset-v2",
       .repository = "nvidia/Nemotron-Post-Training-Dataset-v2",
       .folder = "data",
       .splits = {"stem", "chat", "math", "code"},
       .column = "messages",
       .first_files = "data/[scm][!u]*-00000-of-*",
       .is_gated = true},
      {.name = "wikitext2",
       .repository = "Salesforce/wikitext",
       .folder = "wikitext-2-raw-v1",
       .splits = {"test"},
       .column = "text",
       .first_files = "wikitext-2-raw-v1/test-*",
       .is_one_text = true,
       .is_one_of_many = true},
  };
  return datasets;
}

std::optional<std::string> hub_repository(std::string_view name) {
  constexpr std::string_view kPrefixes[] = {"https://",        "http://", "hf://",    "www.",
                                            "huggingface.co/", "hf.co/",  "datasets/"};
  std::string_view rest = name;
  for (const std::string_view prefix : kPrefixes) {
    if (lower(rest).starts_with(prefix)) rest.remove_prefix(prefix.size());
  }
  const bool has_prefix = rest.size() < name.size();
  rest = rest.substr(0, rest.find_first_of("?#@"));
  while (rest.ends_with('/')) rest.remove_suffix(1);
  size_t end = rest.find('/');
  if (end == 0 || end == std::string_view::npos) return std::nullopt;
  // What stands behind OWNER/NAME in an address: tree/main, viewer...
  end = std::min(rest.find('/', end + 1), rest.size());
  if (!has_prefix && end < rest.size()) return std::nullopt;
  const std::string repository(rest.substr(0, end));
  const bool is_plain = std::all_of(repository.begin(), repository.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '/' || c == '-' || c == '_' || c == '.';
  });
  return is_plain && rest[0] != '.' ? std::optional(repository) : std::nullopt;
}

const HubDataset* find_dataset(std::string_view name) {
  const std::string repository = hub_repository(name).value_or("");
  for (const HubDataset& dataset : hub_datasets()) {
    const bool is_repository = !dataset.is_one_of_many && lower(dataset.repository) == lower(repository);
    if (dataset.name == lower(name) || is_repository) return &dataset;
  }
  return nullptr;
}

const HubDataset* dataset_of_folder(const Path& folder) {
  for (const Path& part : std::filesystem::absolute(folder)) {
    const std::string name = lower(part.string());
    for (const HubDataset& dataset : hub_datasets()) {
      if (name == dataset.name || name == lower(repository_name(dataset)) ||
          name == lower(cache_name(dataset))) {
        return &dataset;
      }
    }
  }
  return nullptr;
}

bool has_splits(FileSystem& files, const HubDataset& dataset, const std::vector<Path>& roots) {
  return find_in_roots(files, dataset, roots).has_value();
}

std::vector<SplitFiles> find_splits(FileSystem& files, const HubDataset& dataset,
                                    const std::vector<Path>& roots) {
  if (auto splits = find_in_roots(files, dataset, roots)) return std::move(*splits);
  throw Error(ErrorKind::kBadInput, {.file = std::string(dataset.name)},
              roots.empty() ? "this data set is not in the Hub's cache, and there is no such file"
                            : "the first files of this data set are not all there",
              {.hint = download_hint(dataset, dataset.first_files)});
}

Path hub_cache() {
  if (const char* cache = std::getenv("HF_HUB_CACHE")) return cache;
  if (const char* home = std::getenv("HF_HOME")) return Path(home) / "hub";
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) return Path(cache) / "huggingface/hub";
  const char* home = std::getenv("HOME");
  return Path(home != nullptr ? home : "~") / ".cache/huggingface/hub";
}

std::vector<Path> cached_roots(FileSystem& files, const HubDataset& dataset, const Path& cache) {
  constexpr uint64_t kMostReferenceBytes = 4096;
  const Path cached = cache / cache_name(dataset);
  if (!files.status(cached / "snapshots")) return {};
  std::vector<std::string> revisions = files.list(cached / "snapshots");
  if (files.status(cached / "refs" / "main")) {
    std::string main = read_text(files, cached / "refs" / "main", kMostReferenceBytes);
    while (!main.empty() && std::isspace(static_cast<unsigned char>(main.back()))) main.pop_back();
    std::stable_partition(revisions.begin(), revisions.end(),
                          [&](const std::string& revision) { return revision == main; });
  }
  std::vector<Path> roots;
  for (const std::string& revision : revisions) roots.push_back(cached / "snapshots" / revision);
  return roots;
}

std::string download_hint(const HubDataset& dataset, std::string_view glob) {
  std::string hint = fmt::format("get it with `hf download {} --repo-type dataset --include '{}'`",
                                 dataset.repository, glob);
  if (dataset.is_gated) {
    hint += fmt::format(
        "; it is gated: accept its terms at https://huggingface.co/datasets/{} and `hf auth login` with a "
        "token",
        dataset.repository);
  }
  return hint;
}

}  // namespace nibblecast
