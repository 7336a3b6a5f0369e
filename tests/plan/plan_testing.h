// tests/plan/plan_testing.h - a checkpoint that is all headers: tensors of zeros, norms of one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "model/deepseek_v4_tensors.h"
#include "model/presets.h"

namespace nibblecast::testing {

// v4-tiny's first two layers with four experts.
inline Json small_config() {
  Json config = preset_config("v4-tiny");
  config["num_hidden_layers"] = 2;
  config["num_hash_layers"] = 1;
  config["n_routed_experts"] = 4;
  config["num_experts_per_tok"] = 2;
  config["routed_scaling_factor"] = 2.5;
  config["swiglu_limit"] = 10.0;
  config["compress_ratios"] = {4, 128, 0};
  return config;
}

inline std::vector<Tensor> stored_tensors(const DeepseekV4Config& config) {
  std::vector<Tensor> stored;
  const auto add = [&](const ModelTensor& tensor) {
    for (Tensor& part : release_tensors(config, tensor)) stored.push_back(std::move(part));
  };
  for (const ModelTensor& tensor : global_tensors(config)) add(tensor);
  for (uint64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const ModelTensor& tensor : layer_tensors(config, layer)) add(tensor);
  }
  std::stable_sort(stored.begin(), stored.end(), [](const Tensor& a, const Tensor& b) {
    return dtype_bytes(a.dtype) > dtype_bytes(b.dtype);
  });
  return stored;
}

// Writes config.json and model.safetensors into `folder`. `edit` may change the tensors first; may be empty.
inline void write_source(const std::filesystem::path& folder,
                         const std::function<void(std::vector<Tensor>&)>& edit) {
  const Json config = small_config();
  std::vector<Tensor> tensors = stored_tensors(DeepseekV4Config::parse(config, "config.json"));
  if (edit) edit(tensors);
  uint64_t offset = 0;
  for (Tensor& tensor : tensors) {
    tensor.size_bytes = *element_count(tensor.shape) * dtype_bytes(tensor.dtype);
    tensor.offset = offset;
    offset += tensor.size_bytes;
  }
  const std::string header = write_safetensors_header(tensors, {{"format", "pt"}});
  const auto file = system_files().open(folder / "model.safetensors", Access::kCreate);
  file->write(0, std::as_bytes(std::span(header)));
  file->set_size(header.size() + offset);
  for (const Tensor& tensor : tensors) {
    if (!tensor.name.ends_with("ffn_norm.weight") || tensor.dtype != Dtype::kBF16) continue;
    const std::vector<bf16> ones(tensor.size_bytes / 2, to_bf16(1));
    file->write(header.size() + tensor.offset, std::as_bytes(std::span(ones)));
  }
  file->close();
  write_text_durably(system_files(), folder / "config.json", config.dump());
}

}  // namespace nibblecast::testing
