// cli/stored_tensors.h - the tensors of a checkpoint folder or of one safetensors file, for `inspect`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/tensor.h"
#include "weights/container.h"

namespace nibblecast {

class StoredFiles {
 public:
  // A folder as open_source() takes it, config.json or not; or a file. Errors as there, and of the
  // safetensors format.
  static StoredFiles open(const std::string& path);

  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* find(std::string_view name) const;  // nullptr where absent
  const std::vector<std::filesystem::path>& shards() const { return shards_; }
  const Json& config() const { return config_; }  // empty object where there is none
  const std::map<std::string, std::string>& metadata() const { return metadata_; }  // of a single file
  uint64_t data_bytes() const;

  // Bytes [begin, begin + size_bytes) of a tensor.
  std::vector<std::byte> read(const Tensor& tensor, uint64_t begin, uint64_t size_bytes) const;

  // The quantized weight named `module`; nothing where `module`.weight is none, or its parts do not fit.
  std::optional<LinearParts> packed(const std::string& module) const;

 private:
  void index_names();

  FileSystem* files_ = &system_files();
  std::vector<std::filesystem::path> shards_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
  Json config_ = Json::object();
  std::map<std::string, std::string> metadata_;
};

}  // namespace nibblecast
