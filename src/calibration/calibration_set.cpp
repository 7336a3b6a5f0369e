#include "calibration/calibration_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "calibration/hub_dataset.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

// A combination of data sets that ModelOpt has by name: hf_ptq's default.
constexpr std::string_view kMix = "cnn_nemotron_v2_mix";
constexpr std::string_view kMixed[] = {"cnn_dailymail", "nemotron-post-training-dataset-v2"};

struct Request {
  std::string name;
  std::optional<uint64_t> count = {};
};

bool exists(FileSystem& files, const std::string& name) {
  return name == "-" || (!name.empty() && files.status(name));
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// "NAME:COUNT"; a name that exists, or without a number behind its last colon, is a name alone.
Request parse_request(FileSystem& files, const std::string& given) {
  if (exists(files, given)) return {given};
  const std::string text(trimmed(given));
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon + 1 == text.size() || exists(files, text)) return {text};
  if (text.find_first_not_of("0123456789", colon + 1) != std::string::npos) return {text};
  uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data() + colon + 1, text.data() + text.size(), count);
  if (error != std::errc() || count == 0) {
    throw Error(ErrorKind::kUsage, {}, fmt::format("'{}' is no count", text.substr(colon + 1)),
                {.hint = "--calib NAME:COUNT, with a count of at least 1"});
  }
  return {std::string(trimmed(text.substr(0, colon))), count};
}

std::vector<Request> parse_requests(FileSystem& files, const std::string& calib) {
  if (exists(files, calib)) return {{calib}};
  std::vector<Request> requests;
  for (size_t begin = 0; begin <= calib.size();) {
    const size_t end = std::min(calib.find(',', begin), calib.size());
    requests.push_back(parse_request(files, calib.substr(begin, end - begin)));
    if (requests.back().name.empty()) throw Error(ErrorKind::kUsage, {}, "--calib holds an empty name");
    begin = end + 1;
  }
  return requests;
}

// `count` over `parts`, the remainder one each to the first.
uint64_t share(uint64_t count, size_t parts, size_t part) {
  return count / parts + (part < count % parts ? 1 : 0);
}

void settle_counts(std::vector<Request>& requests, uint64_t size, uint64_t default_size) {
  size_t counted = 0;
  for (const Request& request : requests) counted += request.count ? 1 : 0;
  if (counted != 0 && counted != requests.size()) {
    throw Error(ErrorKind::kUsage, {}, "--calib gives some names a count and others none",
                {.hint = "give every name a count (A:64,B:64), or none and --calib-size"});
  }
  if (counted != 0 && size != 0) {
    throw Error(ErrorKind::kUsage, {}, "--calib-size and counts in --calib exclude each other");
  }
  if (counted != 0) return;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].count = share(size == 0 ? default_size : size, requests.size(), i);
  }
}

void add_dataset(FileSystem& files, const HubDataset& dataset, const std::vector<Path>& roots, uint64_t count,
                 std::vector<CalibrationSet>& sets) {
  const std::vector<SplitFiles> splits = find_splits(files, dataset, roots);
  for (size_t i = 0; i < splits.size(); ++i) {
    const std::string_view split = dataset.splits[i];
    const uint64_t remainder = i + 1 == splits.size() ? count % splits.size() : 0;
    CalibrationSet set{.name = fmt::format("{} {}", dataset.name, split),
                       .files = splits[i].files,
                       .column = std::string(dataset.column),
                       .count = count / splits.size() + remainder,
                       .rest = {},
                       .joint = dataset.is_one_text ? "\n\n" : ""};
    if (!splits[i].is_complete) {
      set.rest = download_hint(dataset, fmt::format("{}/{}-*", dataset.folder, split));
    }
    if (set.count > 0) sets.push_back(std::move(set));
  }
}

// "texts.jsonl", but not "name-v1.1".
bool looks_like_file(const std::string& name) {
  const std::string extension = Path(name).extension().string();
  return extension.size() > 1 && std::isalpha(static_cast<unsigned char>(extension[1])) != 0;
}

[[noreturn]] void fail_absent(const std::string& name) {
  const auto repository = hub_repository(name);
  if (repository && !looks_like_file(*repository)) {
    throw Error(
        ErrorKind::kBadInput, {.file = name}, "there is no such file; as a data set it is not known here",
        {.hint = fmt::format("get it with `hf download {0} --repo-type dataset --local-dir {1}` and give its "
                             "files, with --calib-key for the column of the texts",
                             *repository, repository->substr(repository->find('/') + 1))});
  }
  std::string known;
  for (const HubDataset& dataset : hub_datasets()) known += std::string(dataset.name) + ", ";
  throw Error(ErrorKind::kBadInput, {.file = name}, "there is no such file",
              {.hint = fmt::format("data sets known by name: {}{}", known, kMix)});
}

void add_folder(FileSystem& files, const std::string& folder, uint64_t count,
                std::vector<CalibrationSet>& sets) {
  const HubDataset* const dataset = dataset_of_folder(folder);
  if (dataset == nullptr) {
    throw Error(
        ErrorKind::kBadInput, {.file = folder}, "is a folder",
        {.hint =
             "give the files in it, or a folder with the download of a data set that is known here, named "
             "like the data set"});
  }
  std::vector<Path> roots = {folder};
  if (files.status(Path(folder) / "snapshots")) {
    roots = cached_roots(files, *dataset, std::filesystem::absolute(folder).parent_path());
  }
  add_dataset(files, *dataset, roots, count, sets);
}

// Where data sets are looked for.
struct DatasetSource {
  const Path& cache;
  const DatasetFetcher& fetch;
};

void add_sets(FileSystem& files, const std::string& name, uint64_t count, const DatasetSource& from,
              std::vector<CalibrationSet>& sets) {
  if (count == 0) return;
  const auto status = name == "-" ? std::nullopt : files.status(name);
  if (status && status->is_folder) return add_folder(files, name, count, sets);
  if (status || name == "-") {
    sets.push_back({.name = name == "-" ? "standard input" : name, .files = {name}, .count = count});
    return;
  }
  if (name == kMix) {
    for (size_t i = 0; i < std::size(kMixed); ++i) {
      add_sets(files, std::string(kMixed[i]), share(count, std::size(kMixed), i), from, sets);
    }
    return;
  }
  const HubDataset* const dataset = find_dataset(name);
  if (dataset == nullptr) fail_absent(name);
  std::vector<Path> roots = cached_roots(files, *dataset, from.cache);
  if (from.fetch && !has_splits(files, *dataset, roots)) {
    from.fetch(*dataset);
    roots = cached_roots(files, *dataset, from.cache);
  }
  add_dataset(files, *dataset, roots, count, sets);
}

}  // namespace

std::vector<CalibrationSet> find_calibration_sets(FileSystem& files, const std::string& calib, uint64_t size,
                                                  const Path& hub_cache, const std::string& column,
                                                  uint64_t default_size, const DatasetFetcher& fetch) {
  std::vector<Request> requests = parse_requests(files, calib);
  const bool is_counted = size != 0 || std::ranges::any_of(requests, [](const Request& request) {
                            return request.count.has_value();
                          });
  settle_counts(requests, size, default_size);
  std::vector<CalibrationSet> sets;
  const DatasetSource from{hub_cache, fetch};
  for (const Request& request : requests) add_sets(files, request.name, *request.count, from, sets);
  for (CalibrationSet& set : sets) {
    if (set.column.empty()) set.column = column;
    if (!set.joint.empty() && !is_counted) set.count = kWholeSet;
  }
  return sets;
}

}  // namespace nibblecast
