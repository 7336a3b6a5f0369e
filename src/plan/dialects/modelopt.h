// plan/dialects/modelopt.h - the JSON documents of a checkpoint in the unified Hugging Face form of NVIDIA's
// ModelOpt 0.48: hf_quant_config.json, and quantization_config in config.json. vLLM, SGLang and TensorRT-LLM
// read it for every family but DeepSeek-V4. The producer is nibblecast and its version.
//
// Where all quantized modules have one algorithm, that is quant_algo, and what it does not hold for is
// listed; else quant_algo is MIXED_PRECISION and every quantized module is an entry of quantized_layers.
// Modules are called what they are called on disk. (ModelOpt 0.48, torch/export/convert_hf_config.py and
// quant_utils.py:process_layer_quant_config)
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "plan/recipe_modules.h"

namespace nibblecast {

// ModelOpt's name of what becomes of a module: "NVFP4", "W4A16_NVFP4" or "FP8"; nullopt where it stays or
// becomes BF16 or F32.
// kUnsupported, naming the module and its rule: fp8_block, and fp8 without quantized inputs.
std::optional<std::string_view> modelopt_algorithm(const ResolvedModule& module);

struct ModelOptDocuments {
  Json config;           // the source's, with a quantization_config of its own in place of the source's
  Json hf_quant_config;  // null where nothing is quantized; then the config has no quantization_config
};

// `exclude_modules`, in config.json `ignore`: everything that could be quantized and is not, sorted: linears,
// routers, embedding and head, a tied head too, by name; the experts of a layer that are kept as one,
// "model.layers.3.mlp.experts*", as engines build them as one; and the draft layers of the source,
// "model.layers.46.*".
// `kv_cache`: fp8_cast and fp8 declare an FP8 cache (the latter's scales are tensors). kUnsupported:
// nvfp4_cast, and a format for the cache where nothing is quantized.
ModelOptDocuments modelopt_documents(const Checkpoint& source, const ModelTable& table,
                                     std::span<const ResolvedModule> modules, KvCache kv_cache,
                                     const std::string& producer_version);

}  // namespace nibblecast
