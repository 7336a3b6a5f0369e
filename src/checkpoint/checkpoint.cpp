#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cassert>
#include <initializer_list>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 16'000'000;
constexpr uint64_t kMaxIndexBytes = 100'000'000;  // 15 MB are enough for 145,116 tensors
constexpr const char* kConfigName = "config.json";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIncompleteHint = "is the download complete?";

// Text of a JSON file and its value, which must be an object.
std::pair<std::string, Json> read_json_object(FileSystem& files, const fs::path& path, uint64_t limit_bytes) {
  std::string text = read_text(files, path, limit_bytes);
  refuse_git_lfs_pointer(text, path.string());
  Json value = parse_json(text, path.string());
  if (!value.is_object()) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "does not hold a JSON object",
                {.found = value.type_name()});
  }
  return {std::move(text), std::move(value)};
}

bool is_file(FileSystem& files, const fs::path& path) {
  const auto status = files.status(path);
  return status && !status->is_folder;
}

// `weight_map` of an index: strings only, and names that stay inside the folder.
Json take_weight_map(Json& index, const std::string& file) {
  const auto found = index.find("weight_map");
  if (found == index.end() || !found->is_object()) {
    throw Error(ErrorKind::kBadInput, {.file = file}, "has no object 'weight_map'");
  }
  for (const auto& [tensor, shard] : found->items()) {
    const Where where{.file = file, .tensor = printable(tensor)};
    if (!shard.is_string()) {
      throw Error(ErrorKind::kBadInput, where, "its shard is not a string", {.found = shard.type_name()});
    }
    const std::string& name = shard.get_ref<const std::string&>();
    const std::string shown = "'" + printable(name) + "'";
    if (name.empty() || printable(name) != name) {
      throw Error(ErrorKind::kBadInput, where, "its shard's name is no file name", {.found = shown});
    }
    const fs::path path = name;
    bool leaves = path.is_absolute();
    for (const fs::path& part : path) leaves = leaves || part == "..";
    if (leaves) {
      throw Error(ErrorKind::kBadInput, where, "its shard lies outside the folder",
                  {.found = shown, .hint = "shards must lie in the checkpoint's folder"});
    }
  }
  return std::move(*found);
}

[[noreturn]] void refuse_without_weights(FileSystem& files, const fs::path& folder) {
  std::string hint = kIncompleteHint;
  for (const std::string& name : files.list(folder)) {
    const fs::path extension = fs::path(name).extension();
    if (extension == ".bin" || extension == ".pth" || extension == ".pt" || extension == ".gguf") {
      hint = "its weights are in '" + printable(name) + "'; only safetensors are read";
    } else if (extension == ".safetensors") {
      hint = "there is '" + printable(name) + "', but the index that belongs to it is missing";
      break;
    }
  }
  throw Error(ErrorKind::kBadInput, {.file = folder.string()},
              std::string("holds neither ") + kIndexName + " nor " + kSingleName, {.hint = hint});
}

void refuse_missing_shards(FileSystem& files, const fs::path& folder, const std::vector<Shard>& shards) {
  size_t missing = 0;
  std::string first;
  for (const Shard& shard : shards) {
    if (is_file(files, folder / shard.name)) continue;
    if (missing++ == 0) first = shard.name;
  }
  if (missing == 0) return;
  throw Error(ErrorKind::kBadInput, {.file = (folder / first).string()},
              "the index names this shard, but it is missing",
              {.found = std::to_string(missing) + " of " + std::to_string(shards.size()) + " shards missing",
               .hint = kIncompleteHint});
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
                  "is a link to a file that is missing", {.hint = kIncompleteHint});
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
  Json weight_map;
  if (has_index) {
    weight_map = checkpoint.read_index();
  } else {
    checkpoint.index_metadata_ = Json::object();
    checkpoint.shards_.push_back({.name = kSingleName});
  }
  checkpoint.read_shards();
  checkpoint.index_names();
  if (has_index) checkpoint.check_against_index(weight_map);
  return checkpoint;
}

void Checkpoint::read_config(bool required) {
  const fs::path path = folder_ / kConfigName;
  config_ = Json::object();
  if (is_file(*files_, path)) {
    std::tie(config_text_, config_) = read_json_object(*files_, path, kMaxConfigBytes);
  } else if (required) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "is missing",
                {.hint = "a checkpoint's folder holds config.json beside the safetensors files"});
  }
}

Json Checkpoint::read_index() {
  const fs::path path = folder_ / kIndexName;
  Json index;
  std::tie(index_text_, index) = read_json_object(*files_, path, kMaxIndexBytes);
  index_metadata_ = Json::object();
  if (const auto metadata = index.find("metadata"); metadata != index.end() && !metadata->is_null()) {
    if (!metadata->is_object()) {
      throw Error(ErrorKind::kBadInput, {.file = path.string()}, "'metadata' is not an object",
                  {.found = metadata->type_name()});
    }
    index_metadata_ = std::move(*metadata);
  }
  Json weight_map = take_weight_map(index, path.string());
  std::set<std::string_view> names;
  for (const Json& shard : weight_map) names.insert(shard.get_ref<const std::string&>());
  for (const std::string_view name : names) shards_.push_back({.name = std::string(name)});
  refuse_missing_shards(*files_, folder_, shards_);
  return weight_map;
}

void Checkpoint::read_shards() {
  for (uint32_t shard = 0; shard < shards_.size(); ++shard) {
    const auto file = files_->open(folder_ / shards_[shard].name, Access::kRead);
    SafetensorsHeader header = read_safetensors_header(*file);
    shards_[shard].size_bytes = header.tensors.empty() ? header.data_offset : header.tensors.back().end();
    shards_[shard].data_offset = header.data_offset;
    shards_[shard].header_json = std::move(header.json);
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

void Checkpoint::check_against_index(const Json& weight_map) const {
  const std::string index = (folder_ / kIndexName).string();
  for (const auto& [name, shard] : weight_map.items()) {
    const std::string& promised = shard.get_ref<const std::string&>();
    const Tensor* tensor = find(name);
    if (tensor == nullptr) {
      throw Error(ErrorKind::kBadInput, {.file = index, .tensor = printable(name)},
                  "the shard that the index names does not hold it",
                  {.expected = "in " + promised, .found = "in none"});
    }
    const std::string& actual = shards_[tensor->shard].name;
    if (actual != promised) {
      throw Error(ErrorKind::kBadInput, {.file = index, .tensor = printable(name)},
                  "the shard that the index names does not hold it",
                  {.expected = "in " + promised, .found = "in " + actual});
    }
  }
  if (weight_map.size() == tensors_.size()) return;
  for (const Tensor& tensor : tensors_) {
    if (!weight_map.contains(tensor.name)) {
      throw Error(ErrorKind::kBadInput, where(tensor), std::string("is not in ") + kIndexName,
                  {.hint = "do shards and index come from the same release?"});
    }
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
