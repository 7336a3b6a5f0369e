// checkpoint/manifest.h - the JSON documents beside an output's shards, as data.
//
// NVFP4 routed experts in an otherwise untouched DeepSeek-V4 release, in the dialect of NVIDIA's ModelOpt,
// which vLLM, SGLang and TensorRT-LLM read (ModelOpt, examples/deepseek/deepseek_v4/quantize_to_nvfp4.py).
// `nvfp4_modules` are official names such as "layers.0.ffn.experts"; the producer is nibblecast and
// `producer_version`. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/json.h"

namespace nibblecast {

// config.json of the output. Fields of the source survive, in quantization_config too, except what would
// mislead an engine there: `exclude_modules` (spelled `ignore` in this file) and `quantization` (its presence
// makes vLLM take the whole model for ModelOpt's mixed format, and FP8 attention then fails to load).
// Defaults are added where the source lacks them: activation_scheme "dynamic", weight_block_size [128, 128].
// Error kBadInput: the config, or its quantization_config, is not an object.
Json nvfp4_experts_config(const Json& source_config, std::span<const std::string> nvfp4_modules,
                          const std::string& producer_version);

// hf_quant_config.json of the output.
Json nvfp4_experts_hf_quant_config(std::span<const std::string> nvfp4_modules,
                                   const std::string& producer_version);

// model.safetensors.index.json of the output. `source_metadata` is an object, whose total_size becomes
// `data_bytes`: the sum of all tensors' sizes, headers not counted. `weight_map`: tensor to shard.
Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map,
                  uint64_t data_bytes);

}  // namespace nibblecast
