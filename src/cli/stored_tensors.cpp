#include "cli/stored_tensors.h"

#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "cli/source.h"

namespace nibblecast {
namespace {

bool is_matrix(const Tensor* tensor, Dtype dtype) {
  return tensor && tensor->dtype == dtype && tensor->shape.size() == 2;
}

}  // namespace

std::string_view weight_format_name(StoredFormat format) {
  switch (format) {
    case StoredFormat::kPlain:
      return "plain";
    case StoredFormat::kFp8Block:
      return "FP8 blocks";
    case StoredFormat::kMxfp4:
      return "MXFP4";
    case StoredFormat::kNvfp4:
      return "NVFP4";
  }
  return "?";
}

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
  system_files().open(shards_[tensor.shard], Access::kRead)->read(tensor.offset + begin, bytes);
  return bytes;
}

StoredFormat StoredFiles::format_of(const std::string& module) const {
  const Tensor& weight = *find(module + ".weight");
  if (weight.shape.size() != 2 || weight.shape[0] == 0 || weight.shape[1] == 0) return StoredFormat::kPlain;
  const Tensor* scale = find(module + ".scale");
  const Tensor* weight_scale = find(module + ".weight_scale");
  const uint64_t rows = weight.shape[0], cols = weight.shape[1];
  const auto holds_one = [&](const Tensor* tensor) { return tensor && tensor->size_bytes > 0; };
  if (!holds_one(scale) && !holds_one(weight_scale)) return StoredFormat::kPlain;
  if (weight.dtype == Dtype::kI8 && is_matrix(scale, Dtype::kF8E8M0) &&
      scale->shape == Shape{rows, cols / 16}) {
    return StoredFormat::kMxfp4;
  }
  if (weight.dtype == Dtype::kU8 && is_matrix(weight_scale, Dtype::kF8E4M3) &&
      weight_scale->shape == Shape{rows, cols / 8}) {
    return StoredFormat::kNvfp4;
  }
  const bool has_tiles = is_matrix(scale, Dtype::kF8E8M0) || is_matrix(scale, Dtype::kF32);
  return weight.dtype == Dtype::kF8E4M3 && has_tiles && holds_one(scale) ? StoredFormat::kFp8Block
                                                                         : StoredFormat::kPlain;
}

}  // namespace nibblecast
