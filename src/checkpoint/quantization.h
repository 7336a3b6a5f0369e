// checkpoint/quantization.h - what a checkpoint says of its own quantization, and formats that are recognized
// but not read.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor.h"

namespace nibblecast {

// A `quantization_config` of config.json, wherever it is nested (text_config, vision_config...), or
// compressed-tensors' older `compression_config`.
struct QuantizationSection {
  std::string name;             // "text_config.quantization_config"
  const Json* value = nullptr;  // of any type but null; lives in the config
};
std::vector<QuantizationSection> quantization_sections(const Json& config);

// A weight that is quantized in a format that this program has no reader for.
struct ForeignFormat {
  const Tensor* tensor = nullptr;  // the first of it; nullptr: only config.json says so
  std::string words;   // "FP8 with inverse scales, as DeepSeek-V3 stores them"; empty without tensor
  std::string stated;  // "quantization_config.quant_method is \"awq\""; empty: config.json says nothing

  std::string text() const;  // "X.qweight: integers packed by AWQ or GPTQ; config.json: ..."
};

// Known formats are FP8 and MXFP4 as DeepSeek, Qwen and ModelOpt name them, NVFP4 as ModelOpt and
// compressed-tensors do, and the latter's MXFP4 and integers of 4 bits; whether their tensors fit together is
// not looked at here. Foreign is a method or format of config.json that has other names, integers that it
// describes otherwise than as symmetric ones of 4 bits in groups, packed integers that it does not describe,
// a tensor whose name belongs to another format (qweight, absmax, W_q, _blocks, weight_zero_point...), and an
// integer matrix of 16 or 32 bits beside scales. Tables of integers (tid2eid, position ids) are none.
std::optional<ForeignFormat> find_foreign_format(const Json& config, std::span<const Tensor> tensors);

// kUnsupported, naming the format and the first tensor.
void refuse_foreign_format(const Checkpoint& source);

}  // namespace nibblecast
