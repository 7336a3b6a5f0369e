// plan/dialects/compressed_tensors.h - config.json of a checkpoint as llm-compressor 0.14 writes it
// (compressed-tensors 0.19, nvfp4-pack-quantized), which vLLM, SGLang and TensorRT-LLM read. No other
// document speaks of the quantization.
//
// Keys, nulls among them, are those of compressed-tensors' QuantizationConfig as it is serialized;
// readers refuse keys that they do not know, so that no producer is named there. (compressed_tensors
// quantization/quant_config.py, quant_scheme.py: presets NVFP4, NVFP4A16, FP8)
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "plan/recipe_modules.h"

namespace nibblecast {

// The scheme of what becomes of a module: "NVFP4", "NVFP4A16", or "FP8" (one scale, static inputs); empty
// where it stays or becomes BF16 or F32. kUnsupported, naming the module and its rule: fp8_block, and fp8
// without quantized inputs.
std::string_view compressed_tensors_scheme(const ResolvedModule& module);

// config.json: the source's, with quantization_config in place of the source's own.
// - config_groups: a group a scheme; the only one's target is "Linear", of several each lists its modules.
// - ignore: every linear, router and head that is not quantized, by name, layers ascending and the head last,
// a
//   tied head too; of what the table passes through (draft layers, other modalities) a pattern
//   "re:model\.layers\.46\..*", and each matrix by name, as some readers rename names but not patterns. The
//   embedding is no Linear.
// - kv_cache_scheme: null, or with fp8_cast that of an FP8 cache.
// Nothing quantized: the config has no quantization_config. kUnsupported: fp8 and nvfp4_cast caches, and a
// format for the cache where nothing is quantized.
Json compressed_tensors_config(const Checkpoint& source, const ModelTable& table,
                               std::span<const ResolvedModule> modules, KvCache kv_cache);

}  // namespace nibblecast
