// checkpoint/manifest.h - the JSON documents beside an output's shards, as data.
//
// NVFP4 and FP8 modules in an otherwise untouched DeepSeek-V4 release, in the dialect of NVIDIA's ModelOpt,
// which vLLM, SGLang and TensorRT-LLM read (ModelOpt, examples/deepseek/deepseek_v4/quantize_to_nvfp4.py).
// The producer is nibblecast and `producer_version`. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/json.h"
#include "checkpoint/weight_format.h"

namespace nibblecast {

// What became of one module that has a weight matrix.
struct ManifestModule {
  std::string name = {};  // official; all routed experts of a layer as one: "layers.3.ffn.experts"
  WeightFormat format = WeightFormat::kKeep;
  bool quantize_input = false;
  bool is_fp8_in_source = false;  // the source's FP8 keys speak of it
};

struct Manifest {
  std::span<const ManifestModule>
      modules;                // every one, kept ones too; the draft layers are kept and not named
  bool fp8_kv_cache = false;  // serving is told that the KV cache may be FP8
  std::string producer_version;
};

// config.json of the output. Fields of the source survive, in quantization_config too, except what would
// mislead an engine there: `exclude_modules` (spelled `ignore` in this file) and `quantization` (its presence
// makes vLLM take the whole model for ModelOpt's mixed format, and FP8 attention then fails to load).
// Defaults are added where the source lacks them: activation_scheme "dynamic", weight_block_size [128, 128].
// - quantized_layers: a module each for NVFP4, W4A16_NVFP4 and FP8; fp8_block is what the source's FP8 keys
// say.
// - ignore: what stays, by patterns as short as they can be without naming a quantized module. Where only
// routed
//   experts are NVFP4, the list is that of ModelOpt's script.
// - modules_to_not_convert: FP8 modules of the source that became BF16 or F32.
// - expert_dtype: "fp4" with NVFP4 experts, "fp8" with fp8_block, else the dtype that no engine takes for
// FP4.
// - moe_quant_algo: of the routed experts; absent where they are in no format of ModelOpt's.
// Where no module is NVFP4 or FP8, ModelOpt's keys are absent.
// Error kBadInput: the config, or its quantization_config, is not an object.
Json output_config(const Json& source_config, const Manifest& manifest);

// hf_quant_config.json of the output; null where no module is NVFP4 or FP8, then there is no such file.
Json output_hf_quant_config(const Manifest& manifest);

// config.json of a checkpoint whose every weight is `dtype` ("bfloat16" or "float32"): without
// quantization_config, compression_config and expert_dtype, however deep they are nested (text_config...);
// torch_dtype and dtype say `dtype`, nested ones unless they say float32. Error kBadInput: the config is not
// an object.
Json dequantized_config(const Json& source_config, const std::string& dtype);
// The same config without what it says, at any depth, of quantized weights.
Json without_quantization(Json config);

// config.json of a checkpoint whose NVFP4 experts went back to MXFP4: `nvfp4_config` without ModelOpt's keys;
// what the release's FP8 keys say is true again. Error kBadInput: the config, or its quantization_config, is
// not an object.
Json mxfp4_config(const Json& nvfp4_config);

// model.safetensors.index.json of the output. `source_metadata` is an object, whose total_size becomes
// `data_bytes`: the sum of all tensors' sizes, headers not counted. `weight_map`: tensor to shard.
Json output_index(const Json& source_metadata, const std::map<std::string, std::string>& weight_map,
                  uint64_t data_bytes);

}  // namespace nibblecast
