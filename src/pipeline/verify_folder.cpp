#include "pipeline/verify_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"
#include "checkpoint/adapter.h"
#include "checkpoint/index.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "pipeline/destination.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxDocumentBytes = 4'000'000;
constexpr uint64_t kMaxIndexBytes = 100'000'000;
// Holds the source's headers as texts: 15 MB a thousand shards of V4-Pro.
constexpr uint64_t kMaxRunDocumentBytes = 400'000'000;
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";

class FolderReader {
 public:
  FolderReader(const fs::path& path, FileSystem& files, ProblemList& problems)
      : files_(files), problems_(problems) {
    folder_.path = path;
  }

  OutputFolder read() {
    folder_.config = document("config.json", kMaxDocumentBytes, true);
    folder_.hf_quant_config = document("hf_quant_config.json", kMaxDocumentBytes, false);
    folder_.has_hf_quant_config = is_file("hf_quant_config.json");
    folder_.run_document = document("nibblecast.json", kMaxRunDocumentBytes, false);
    read_index();
    find_shards();
    for (const std::string& name : present_) read_shard(name);
    index_names();
    if (index_) check_index();
    check_strangers();
    return std::move(folder_);
  }

 private:
  bool is_file(const std::string& name) const {
    const auto status = files_.status(folder_.path / name);
    return status && !status->is_folder;
  }

  // Runs `f`; what it finds wrong with a file becomes a problem.
  template <class F>
  bool guarded(std::string_view kind, const F& f) {
    try {
      f();
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadInput && error.kind() != ErrorKind::kUnsupported) throw;
      problems_.add(kind, error.what());
      return false;
    }
  }

  Json document(const char* name, uint64_t limit_bytes, bool required) {
    Json json;
    if (!is_file(name)) {
      if (required) {
        problems_.add("files",
                      fmt::format("{}: is missing; was the run that made this folder interrupted?", name));
      }
      return json;
    }
    guarded("files", [&] {
      const fs::path path = folder_.path / name;
      Json read = parse_json(read_text(files_, path, limit_bytes), path.string());
      if (!read.is_object())
        throw Error(ErrorKind::kBadInput, {.file = path.string()}, "does not hold a JSON object");
      json = std::move(read);
    });
    return json;
  }

  void read_index() {
    if (!is_file(kIndexName)) {
      if (!is_file(kSingleName)) problems_.add("files", fmt::format("{}: is missing", kIndexName));
      return;
    }
    guarded("files", [&] {
      const fs::path path = folder_.path / kIndexName;
      index_ = parse_index(read_text(files_, path, kMaxIndexBytes), path.string());
      folder_.index_metadata = index_->metadata;
    });
  }

  // Those of the index, and any other in the folder: an engine may load it.
  void find_shards() {
    for (const std::string& name : files_.list(folder_.path)) {
      if (name.ends_with(".safetensors") && is_file(name)) present_.insert(name);
    }
    if (!index_) return;
    for (const std::string& name : index_->shards) {
      if (present_.contains(name)) continue;
      if (is_file(name)) {
        present_.insert(name);
        continue;
      }
      problems_.add("files", fmt::format("{}: the index names this shard, but it is missing", name));
      unreadable_shards_.insert(name);
    }
  }

  void read_shard(const std::string& name) {
    const bool read = guarded("files", [&] {
      SafetensorsHeader header = read_safetensors_header(*files_.open(folder_.path / name, Access::kRead));
      for (Tensor& tensor : header.tensors) {
        tensor.shard = static_cast<uint32_t>(folder_.shards.size());
        folder_.tensors.push_back(std::move(tensor));
      }
      folder_.shards.push_back(name);
    });
    if (!read) unreadable_shards_.insert(name);
  }

  void index_names() {
    folder_.all_shards_read = unreadable_shards_.empty();
    for (uint32_t index = 0; index < folder_.tensors.size(); ++index) {
      const Tensor& tensor = folder_.tensors[index];
      const auto [known, is_new] = folder_.by_name.emplace(tensor.name, index);
      if (is_new) continue;
      problems_.add(
          "tensors in two shards",
          fmt::format("{}: is in two shards, {} and {}", printable(tensor.name),
                      folder_.shards[folder_.tensors[known->second].shard], folder_.shards[tensor.shard]));
    }
  }

  void check_index() {
    constexpr std::string_view kKind = "index entries";
    for (const CheckpointIndex::Entry& entry : index_->weight_map) {
      const std::string& shard = index_->shards[entry.shard];
      if (unreadable_shards_.contains(shard)) {
        folder_.unreadable.insert(entry.tensor);
        continue;
      }
      const Tensor* tensor = folder_.find(entry.tensor);
      if (tensor != nullptr && folder_.shards[tensor->shard] == shard) continue;
      problems_.add(
          kKind,
          fmt::format("{}: the index places it in {}, but it is in {}", printable(entry.tensor), shard,
                      tensor == nullptr ? "no shard that can be read" : folder_.shards[tensor->shard]));
    }
    uint64_t data_bytes = 0;
    for (const Tensor& tensor : folder_.tensors) {
      data_bytes += tensor.size_bytes;
      if (std::ranges::binary_search(index_->weight_map, tensor.name, {}, &CheckpointIndex::Entry::tensor))
        continue;
      problems_.add(kKind, fmt::format("{}: is in {}, but not in the index", printable(tensor.name),
                                       folder_.shards[tensor.shard]));
    }
    check_total_size(data_bytes);
  }

  void check_total_size(uint64_t data_bytes) {
    if (!folder_.all_shards_read) return;
    const Json& metadata = index_->metadata;
    const Json total_size = metadata.contains("total_size") ? metadata["total_size"] : Json();
    if (total_size == data_bytes) return;
    problems_.add("files",
                  fmt::format("{}: metadata.total_size must be the tensors' {} bytes; found {}", kIndexName,
                              data_bytes, total_size.is_null() ? "nothing" : printable(total_size.dump())));
  }

  void check_strangers() {
    if (std::optional<std::string> problem = adapter_problem(folder_.path, files_))
      problems_.add("files", *problem);
    for (const std::string& name : files_.list(folder_.path)) {
      if (name.ends_with(".partial") || name == kJobFolder) {
        problems_.add("files", fmt::format("{}: left by a run that has not finished", printable(name)));
      }
    }
  }

  FileSystem& files_;
  ProblemList& problems_;
  OutputFolder folder_;
  std::optional<CheckpointIndex> index_;
  std::set<std::string> present_, unreadable_shards_;
};

}  // namespace

const Tensor* OutputFolder::find(std::string_view name) const {
  const auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : &tensors[found->second];
}

bool is_model_card(std::string_view name) { return name == "README.md" || name == "README.source.md"; }

std::optional<std::string> adapter_problem(const fs::path& folder, FileSystem& files) {
  if (!files.status(folder / kAdapterName)) return std::nullopt;
  return fmt::format("{}: is no part of the model, and transformers would put an adapter over these weights",
                     kAdapterName);
}

bool is_inside(const fs::path& relative) {
  return relative.is_relative() && std::ranges::find(relative, "..") == relative.end();
}

bool is_unfinished_output(const fs::path& path, FileSystem& files) {
  const auto status = files.status(path);
  if (!status || !status->is_folder || files.status(path / "config.json")) return false;
  return std::ranges::any_of(files.list(path), [](const std::string& name) {
    return name == kJobFolder || name.ends_with(".safetensors.partial");
  });
}

OutputFolder read_output_folder(const fs::path& path, FileSystem& files, ProblemList& problems) {
  const auto status = files.status(path);
  if (!status || !status->is_folder) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, status ? "is not a folder" : "no such folder",
                {.hint = "give the folder that a run has written"});
  }
  return FolderReader(path, files, problems).read();
}

}  // namespace nibblecast
