#include "cli/stored_tensors.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "cli/source.h"

namespace nibblecast {
StoredFiles StoredFiles::open(const std::string& path) {
  FileSystem& files = system_files();
  StoredFiles stored;
  const auto status = files.status(path);
  if (status && !status->is_folder) {
    SafetensorsHeader header = read_safetensors_header(*files.open(path, Access::kRead));
    stored.shards_ = {path};
    stored.tensors_ = std::move(header.tensors);
    stored.metadata_ = std::move(header.metadata);
  } else {
    const Checkpoint checkpoint = open_source(path, false);
    for (const Shard& shard : checkpoint.shards()) stored.shards_.push_back(checkpoint.folder() / shard.name);
    stored.files_ = &checkpoint.files();
    stored.tensors_.assign(checkpoint.tensors().begin(), checkpoint.tensors().end());
    stored.config_ = checkpoint.config();
  }
  stored.index_names();
  return stored;
}

void StoredFiles::index_names() {
  for (size_t index = 0; index < tensors_.size(); ++index) by_name_.emplace(tensors_[index].name, index);
}

const Tensor* StoredFiles::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

uint64_t StoredFiles::data_bytes() const {
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += tensor.size_bytes;
  return bytes;
}

std::vector<std::byte> StoredFiles::read(const Tensor& tensor, uint64_t begin, uint64_t size_bytes) const {
  std::vector<std::byte> bytes(size_bytes);
  files_->open(shards_[tensor.shard], Access::kRead)->read(tensor.offset + begin, bytes);
  return bytes;
}

std::optional<LinearParts> StoredFiles::packed(const std::string& module) const {
  const LocateTensor where = [&](const Tensor& tensor) {
    return Where{.file = shards_[tensor.shard].string(), .tensor = tensor.name, .offset = tensor.offset};
  };
  try {
    const auto parts = find_linear(
        module, tile_size(config_, "config.json"), [&](const std::string& name) { return find(name); },
        where);
    const bool is_plain = !parts || parts->scale == nullptr;
    return is_plain ? std::nullopt : parts;
  } catch (const Error&) {  // a look at the tensors needs no more than their headers
    return std::nullopt;
  }
}

}  // namespace nibblecast
