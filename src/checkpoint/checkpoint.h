// checkpoint/checkpoint.h - a Hugging Face checkpoint folder: config.json, shards, their index, side files.
//
// Opening reads headers, index and config, never tensor data. A Hub snapshot (files that are symbolic
// links into ../../blobs) is followed. Immutable after open(), so safe from several threads.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "checkpoint/index.h"
#include "checkpoint/tensor.h"

namespace nibblecast {

struct Shard {
  std::string name = {};  // "model-00001-of-00064.safetensors"
  uint64_t size_bytes = 0;
  int64_t mtime_ns = 0;      // when it was opened
  std::string version = {};  // of a file on a server, FileStatus::version
  uint64_t data_offset = 0;
  std::string header_json = {};                      // as it stands in the file
  std::map<std::string, std::string> metadata = {};  // the header's __metadata__
};

class Checkpoint {
 public:
  // `folder` holds config.json and either model.safetensors.index.json or model.safetensors alone.
  // Errors (kBadInput, kIo) name file, tensor and offset: a missing or damaged file; an index entry that is
  // absolute, holds "..", or names a tensor its shard lacks; a tensor that is in a listed shard but not in
  // the index, in two shards, or in another shard than the index says; a config that is not an object.
  // `require_config` false: config() is then an empty object where the folder has none.
  // Shards that the index does not name are ignored.
  static Checkpoint open(const std::filesystem::path& folder, FileSystem& files, bool require_config = true);
  // Move-only: by_name_ looks into tensors_.
  Checkpoint(Checkpoint&&) = default;
  Checkpoint& operator=(Checkpoint&&) = default;

  const std::filesystem::path& folder() const { return folder_; }
  FileSystem& files() const { return *files_; }
  const Json& config() const { return config_; }
  const std::string& config_text() const { return config_text_; }  // as it stands in the file
  const std::string& index_text() const { return index_text_; }    // empty for a single-file checkpoint
  // The index's "metadata" object; empty object where there is none.
  const Json& index_metadata() const { return index_metadata_; }

  const std::vector<Shard>& shards() const { return shards_; }  // sorted by name
  std::span<const Tensor> tensors() const { return tensors_; }  // sorted by shard, then offset
  const Tensor* find(std::string_view name) const;              // nullptr where absent
  const Tensor& at(std::string_view name) const;                // kBadInput where absent
  uint64_t data_bytes() const;                                  // sum of all tensors' sizes
  Where where(const Tensor& tensor) const;                      // for error messages

  // Everything else in the folder, as paths relative to it, files only, recursively, sorted: tokenizer,
  // generation config, encoding/, inference/, licence... Not: shards, index, config.json,
  // hf_quant_config.json, nibblecast.json, hidden files and folders, __pycache__, *.partial, weights in
  // other containers (*.bin, *.pt, *.pth, *.gguf, *.safetensors and their index files). Links to files are
  // followed. Error kBadInput: a link that leads nowhere, or to a folder.
  std::vector<std::filesystem::path> side_files() const;

 private:
  Checkpoint() = default;
  void read_config(bool required);
  CheckpointIndex read_index();
  void read_shards();
  void index_names();
  void check_against_index(const CheckpointIndex& index) const;

  std::filesystem::path folder_;
  FileSystem* files_ = nullptr;
  Json config_ = Json::object(), index_metadata_ = Json::object();
  std::string config_text_, index_text_;
  std::vector<Shard> shards_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, uint32_t> by_name_;  // views into tensors_' names
};

// Reads tensors' bytes through the page cache; for headers, norm vectors, inspect and verify, not for the
// streaming path. Keeps shards open. Not thread-safe.
class TensorReader {
 public:
  explicit TensorReader(const Checkpoint& checkpoint);
  ~TensorReader();
  std::vector<std::byte> read(const Tensor& tensor);
  // A range of the tensor's bytes.
  void read(const Tensor& tensor, uint64_t begin, std::span<std::byte> to);

 private:
  const Checkpoint* checkpoint_;
  std::vector<std::unique_ptr<File>> open_files_;
};

}  // namespace nibblecast
