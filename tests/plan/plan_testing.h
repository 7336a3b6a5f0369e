// tests/plan/plan_testing.h - a checkpoint that is all headers: tensors of zeros, norms of one.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "formats/bf16.h"
#include "model/family.h"

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

// By element size, so that all are aligned.
inline void sort_by_width(std::vector<Tensor>& tensors) {
  std::ranges::stable_sort(tensors, std::ranges::greater(),
                           [](const Tensor& tensor) { return dtype_bytes(tensor.dtype); });
}

inline std::vector<Tensor> stored_tensors(const Json& config) {
  const auto model = read_model(config, "config.json");
  const Family& family = family_of(config, "config.json");
  std::vector<Tensor> stored;
  const auto add = [&](std::optional<uint64_t> layer) {
    for (SynthTensor& tensor : family.synth(model, layer)) stored.push_back(std::move(tensor.stored));
  };
  add(std::nullopt);
  for (uint64_t layer = 0; layer < model.layers(); ++layer) add(layer);
  sort_by_width(stored);
  return stored;
}

// Writes config.json and model.safetensors into `folder`. `edit` may change the tensors first; may be empty.
inline void write_source(const std::filesystem::path& folder,
                         const std::function<void(std::vector<Tensor>&)>& edit) {
  const Json config = small_config();
  std::vector<Tensor> tensors = stored_tensors(config);
  if (edit) edit(tensors);
  uint64_t offset = 0;
  for (Tensor& tensor : tensors) {
    tensor.size_bytes = *stored_bytes(tensor.dtype, *element_count(tensor.shape));
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
