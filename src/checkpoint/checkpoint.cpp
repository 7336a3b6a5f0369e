#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cassert>
#include <initializer_list>
#include <utility>

#include "base/error.h"
#include "checkpoint/hub_download.h"
#include "checkpoint/index.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 4'000'000;   // real ones have some kilobytes
constexpr uint64_t kMaxIndexBytes = 100'000'000;  // 15 MB are enough for 145,116 tensors
constexpr const char* kConfigName = "config.json";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";

bool is_file(FileSystem& files, const fs::path& path) {
  const auto status = files.status(path);
  return status && !status->is_folder;
}

[[noreturn]] void refuse_without_weights(FileSystem& files, const fs::path& folder) {
  std::string other;
  std::vector<std::string> shards;
  for (const std::string& name : files.list(folder)) {
    const fs::path extension = fs::path(name).extension();
    if (extension == ".safetensors") shards.push_back(name);
    if (extension == ".bin" || extension == ".pth" || extension == ".pt" || extension == ".gguf")
      other = name;
  }
  std::string hint = missing_files_hint(files, folder);
  if (!shards.empty()) {
    hint = "there is '" + printable(shards.front()) + "'" +
           (shards.size() > 1 ? " and " + std::to_string(shards.size() - 1) + " more" : "") +
           ", but the index that belongs to it is missing; " + hint;
  } else if (!other.empty()) {
    hint = "its weights are in '" + printable(other) + "'; only safetensors are read";
  }
  throw Error(ErrorKind::kBadInput, {.file = folder.string()},
              std::string("holds neither ") + kIndexName + " nor " + kSingleName, {.hint = hint});
}

void refuse_missing_shards(FileSystem& files, const fs::path& folder, const std::vector<Shard>& shards) {
  constexpr size_t kMostNamed = 3;
  size_t missing = 0;
  std::string named;
  for (const Shard& shard : shards) {
    if (is_file(files, folder / shard.name)) continue;
    if (missing++ < kMostNamed) named += (named.empty() ? "" : ", ") + shard.name;
  }
  if (missing == 0) return;
  if (missing > kMostNamed) named += " and " + std::to_string(missing - kMostNamed) + " more";
  throw Error(ErrorKind::kBadInput, {.file = folder.string()},
              std::to_string(missing) + " of " + std::to_string(shards.size()) +
                  " shards that the index names are missing: " + named,
              {.hint = missing_files_hint(files, folder)});
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> endings) {
  for (const std::string_view ending : endings) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

bool is_side_file(const std::string& name, bool at_top) {
  if (at_top && (name == kConfigName || name == "hf_quant_config.json" || name == "nibblecast.json"))
    return false;
  return !ends_with_any(name, {".partial", ".safetensors", ".bin", ".pt", ".pth", ".gguf",
                               ".safetensors.index.json", ".bin.index.json"});
}

void collect_side_files(FileSystem& files, const fs::path& folder, const fs::path& below,
                        std::vector<fs::path>& found) {
  for (const std::string& name : files.list(folder / below)) {
    if (name.starts_with('.') || name == "__pycache__") continue;
    const fs::path relative = below / name;
    const auto status = files.status(folder / relative);
    if (!status) {
      throw Error(ErrorKind::kBadInput, {.file = (folder / relative).string()},
                  "is a link to a file that is missing", {.hint = missing_files_hint(files, folder)});
    }
    if (status->is_folder && status->is_symlink) {
      // Followed, it could lead round in circles or to any amount of foreign files.
      throw Error(ErrorKind::kBadInput, {.file = (folder / relative).string()}, "is a link to a folder",
                  {.hint = "put the folder itself there, or remove the link"});
    }
    if (status->is_folder) {
      collect_side_files(files, folder, relative, found);
    } else if (is_side_file(name, below.empty())) {
      found.push_back(relative);
    }
  }
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder, FileSystem& files, bool require_config) {
  const auto status = files.status(folder);
  if (!status || !status->is_folder) {
    throw Error(ErrorKind::kBadInput, {.file = folder.string()},
                status ? "is not a folder" : "no such folder",
                {.hint = "give the folder that holds config.json and the safetensors files"});
  }
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  checkpoint.files_ = &files;
  checkpoint.read_config(require_config);
  const bool has_index = is_file(files, folder / kIndexName);
  if (!has_index && !is_file(files, folder / kSingleName)) refuse_without_weights(files, folder);
  CheckpointIndex index;
  if (has_index) {
    index = checkpoint.read_index();
  } else {
    checkpoint.shards_.push_back({.name = kSingleName});
  }
  checkpoint.read_shards();
  checkpoint.index_names();
  if (has_index) checkpoint.check_against_index(index);
  return checkpoint;
}

void Checkpoint::read_config(bool required) {
  const fs::path path = folder_ / kConfigName;
  if (is_file(*files_, path)) {
    config_text_ = read_text(*files_, path, kMaxConfigBytes);
    refuse_git_lfs_pointer(config_text_, path.string());
    config_ = parse_json(config_text_, path.string());
    if (!config_.is_object()) {
      throw Error(ErrorKind::kBadInput, {.file = path.string()}, "does not hold a JSON object",
                  {.found = config_.type_name()});
    }
  } else if (required) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "is missing",
                {.hint = "a checkpoint's folder holds config.json beside the safetensors files"});
  }
}

CheckpointIndex Checkpoint::read_index() {
  const fs::path path = folder_ / kIndexName;
  index_text_ = read_text(*files_, path, kMaxIndexBytes);
  refuse_git_lfs_pointer(index_text_, path.string());
  CheckpointIndex index = parse_index(index_text_, path.string());
  index_metadata_ = std::move(index.metadata);
  for (const std::string& name : index.shards) shards_.push_back({.name = name});
  refuse_missing_shards(*files_, folder_, shards_);
  return index;
}

void Checkpoint::read_shards() {
  for (uint32_t shard = 0; shard < shards_.size(); ++shard) {
    const auto file = files_->open(folder_ / shards_[shard].name, Access::kRead);
    SafetensorsHeader header = read_safetensors_header(*file);
    const auto status = files_->status(folder_ / shards_[shard].name);
    shards_[shard].mtime_ns = status ? status->mtime_ns : 0;
    shards_[shard].version = status ? status->version : "";
    shards_[shard].size_bytes = header.tensors.empty() ? header.data_offset : header.tensors.back().end();
    shards_[shard].data_offset = header.data_offset;
    shards_[shard].header_json = std::move(header.json);
    shards_[shard].metadata = std::move(header.metadata);
    for (Tensor& tensor : header.tensors) {
      tensor.shard = shard;
      tensors_.push_back(std::move(tensor));
    }
  }
}

void Checkpoint::index_names() {
  by_name_.reserve(tensors_.size());
  for (uint32_t i = 0; i < tensors_.size(); ++i) {
    const auto [known, is_new] = by_name_.emplace(tensors_[i].name, i);
    if (is_new) continue;
    throw Error(ErrorKind::kBadInput, where(tensors_[i]), "is in two shards",
                {.found = "also in " + shards_[tensors_[known->second].shard].name});
  }
}

void Checkpoint::check_against_index(const CheckpointIndex& index) const {
  for (const auto& [name, shard] : index.weight_map) {
    const Tensor* tensor = find(name);
    if (tensor != nullptr && tensor->shard == shard) continue;
    throw Error(ErrorKind::kBadInput, {.file = (folder_ / kIndexName).string(), .tensor = printable(name)},
                "the shard that the index names does not hold it",
                {.expected = "in " + shards_[shard].name,
                 .found = tensor == nullptr ? "in none" : "in " + shards_[tensor->shard].name});
  }
  if (index.weight_map.size() == tensors_.size()) return;
  for (const Tensor& tensor : tensors_) {
    if (std::ranges::binary_search(index.weight_map, tensor.name, {}, &CheckpointIndex::Entry::tensor))
      continue;
    throw Error(ErrorKind::kBadInput, where(tensor), std::string("is not in ") + kIndexName,
                {.hint = "do shards and index come from the same release?"});
  }
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const Tensor& Checkpoint::at(std::string_view name) const {
  if (const Tensor* tensor = find(name)) return *tensor;
  throw Error(ErrorKind::kBadInput, {.file = folder_.string(), .tensor = printable(name)},
              "the checkpoint does not have it");
}

uint64_t Checkpoint::data_bytes() const {
  uint64_t sum = 0;
  for (const Tensor& tensor : tensors_) sum += tensor.size_bytes;
  return sum;
}

Where Checkpoint::where(const Tensor& tensor) const {
  return {.file = (folder_ / shards_[tensor.shard].name).string(),
          .tensor = printable(tensor.name),
          .offset = tensor.offset};
}

std::vector<fs::path> Checkpoint::side_files() const {
  std::vector<fs::path> found;
  collect_side_files(*files_, folder_, {}, found);
  std::ranges::sort(found);
  return found;
}

TensorReader::TensorReader(const Checkpoint& checkpoint)
    : checkpoint_(&checkpoint), open_files_(checkpoint.shards().size()) {}

TensorReader::~TensorReader() = default;

std::vector<std::byte> TensorReader::read(const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.size_bytes);
  read(tensor, 0, bytes);
  return bytes;
}

void TensorReader::read(const Tensor& tensor, uint64_t begin, std::span<std::byte> to) {
  assert(begin <= tensor.size_bytes && to.size() <= tensor.size_bytes - begin);
  std::unique_ptr<File>& file = open_files_[tensor.shard];
  if (!file) {
    const fs::path path = checkpoint_->folder() / checkpoint_->shards()[tensor.shard].name;
    file = checkpoint_->files().open(path, Access::kRead);
  }
  file->read(tensor.offset + begin, to);
}

}  // namespace nibblecast
