// tests/pipeline/stored_checkpoint.h - a checkpoint of any tensors, and their bytes read back.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "pipeline_testing.h"

namespace nibblecast::testing {

struct StoredTensor {
  std::string name;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::string bytes = {};  // empty: every byte from a fixed sequence that is finite in every dtype
};

// The bytes of values.
template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

inline std::string plain_bytes(Dtype dtype, uint64_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 1;
  for (char& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  for (uint64_t at = 0; at < size; ++at) {
    auto& byte = reinterpret_cast<uint8_t&>(bytes[at]);
    if (dtype == Dtype::kF8E4M3 && (byte & 0x7f) == 0x7f) byte = 0x30;
    if (dtype == Dtype::kF8E8M0) byte = static_cast<uint8_t>(110 + byte % 32);
    if (dtype == Dtype::kBF16 && at % 2 == 1) byte = static_cast<uint8_t>(0x3c + byte % 4);
    if (dtype == Dtype::kF32 && at % 4 == 3) byte = static_cast<uint8_t>(0x3c + byte % 4);
  }
  return bytes;
}

// One shard in the given order, and config.json.
inline void write_checkpoint(const std::filesystem::path& folder, std::vector<StoredTensor> stored,
                             const Json& config = Json::object()) {
  std::filesystem::create_directories(folder);
  std::vector<Tensor> tensors;
  std::string data;
  for (StoredTensor& tensor : stored) {
    const uint64_t size = *element_count(tensor.shape) * dtype_bytes(tensor.dtype);
    if (tensor.bytes.empty()) tensor.bytes = plain_bytes(tensor.dtype, size);
    tensors.push_back({.name = tensor.name,
                       .dtype = tensor.dtype,
                       .shape = tensor.shape,
                       .offset = data.size(),
                       .size_bytes = size});
    data += tensor.bytes;
  }
  write_text_durably(system_files(), folder / "model.safetensors",
                     write_safetensors_header(tensors, {}) + data);
  write_text_durably(system_files(), folder / "config.json", config.dump());
}

inline std::string tensor_bytes(const Checkpoint& checkpoint, const std::string& name) {
  const std::vector<std::byte> bytes = TensorReader(checkpoint).read(checkpoint.at(name));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Puts `bytes` at byte `at` of a tensor.
inline void edit_tensor(const std::filesystem::path& folder, const std::string& name, uint64_t at,
                        const std::string& bytes) {
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const Tensor& tensor = checkpoint.at(name);
  const auto file =
      system_files().open(folder / checkpoint.shards()[tensor.shard].name, Access::kUpdateDirect);
  file->write(tensor.offset + at, std::as_bytes(std::span(bytes)));
  file->close();
}

}  // namespace nibblecast::testing
