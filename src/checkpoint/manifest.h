// checkpoint/manifest.h - the JSON documents of an output, as values. Pure functions.
//
// What a DeepSeek-V4 with NVFP4 experts says of itself follows NVIDIA ModelOpt's V4 script (examples/deepseek/deepseek_v4);
// which engine reads which key: docs/engines.md.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"

namespace nibblecast {

// config.json: the source's with its `quantization_config` extended. `modules`: "layers.0.ffn.experts", ... Fields that
// we do not know survive; the FP8 keys stay (activation_scheme and weight_block_size get DeepSeek's values where absent);
// `exclude_modules` becomes `ignore`; a nested `quantization` goes, because vLLM takes such a file for another format.
// Error kBadInput: the source's quantization_config is not an object.
Json nvfp4_experts_config(const Json& source_config, std::span<const std::string> modules, std::string_view version);

// hf_quant_config.json, which TensorRT-LLM reads.
Json nvfp4_experts_hf_quant_config(std::span<const std::string> modules, std::string_view version);

// model.safetensors.index.json: the source's metadata with the true total_size, and tensor -> shard.
Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map, uint64_t total_size);

}  // namespace nibblecast
