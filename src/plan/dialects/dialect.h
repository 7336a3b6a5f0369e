// plan/dialects/dialect.h - dialects as data: how an output calls the tensors of a quantized linear, how it
// stores their scales, and which documents say what they are. A row for each (dialect.cpp); a new one is a
// row and, where its documents are its own, a function that makes them.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "plan/options.h"
#include "plan/recipe_modules.h"

namespace nibblecast {

// What follows the name of a linear in NVFP4. Weights in other formats are called the same in every dialect:
// X.weight, X.scale or X.weight_scale, X.input_scale.
struct LinearNames {
  std::string_view weight = ".weight";
  std::string_view block_scale = ".weight_scale";
  std::string_view scale_2 = ".weight_scale_2";
  std::string_view input_scale = ".input_scale";
  bool reciprocal_scales = false;  // scale_2 and input_scale, stored as 1 / x (PlannedTensor::reciprocal)
  bool scalars_have_axis = false;  // scalars of every format are [1], not []
};

struct Documents {
  Json config;           // config.json: the source's, with a quantization_config of the dialect's
  Json hf_quant_config;  // null: there is no such file
  std::vector<std::string> warnings = {};
};

struct DocumentsInput {
  const Checkpoint& source;
  const Model& model;
  std::span<const ResolvedModule> modules;  // of the model's table, all of them
  KvCache kv_cache = KvCache::kNone;
  std::string version;  // of the producer, nibblecast
};

struct Dialect {
  OutputFormat format;
  LinearNames names;
  // Whether it has words for what the source has quantized otherwise, so that a weight that the recipe keeps
  // stays as it is; else it becomes BF16.
  bool keeps_quantized;
  // Throws kUnsupported, naming the module or option, for what the dialect cannot say.
  Documents (*documents)(const DocumentsInput& input);
};

// kAuto has none.
const Dialect& dialect_of(OutputFormat format);

// Those that a model can be written in; the first is what `auto` stands for.
std::vector<OutputFormat> formats_of(const Model& model);

}  // namespace nibblecast
