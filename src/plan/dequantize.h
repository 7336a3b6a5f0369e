// plan/dequantize.h - the Plan of `nibblecast dequantize`: a checkpoint without quantized weights.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

enum class TensorNames { kOfficial, kTransformers };
struct DequantizeOptions {
  Dtype dtype = Dtype::kBF16;  // or kF32
  TensorNames names = TensorNames::kOfficial;
};
// What nibblecast.json records of it: "dequantize bfloat16 transformers names"; and back, nothing for any
// other text.
std::string dequantize_text(const DequantizeOptions& options);
std::optional<DequantizeOptions> parse_dequantize(std::string_view text);

// Every FP8, MXFP4 and NVFP4 weight (plan/packed_linears.h) as `dtype`, its scales left out; with
// kF32 BF16 tensors of any rank too. Every other tensor stays. Names, shards and order are the source's.
// With kTransformers, of families whose releases have other names (Family::hub_tensor): the tensors of
// transformers' model, routed experts stacked, and its spelling of config.json; a stack lies where its first expert was.
// The draft layers, which that model lacks, keep their names. Else of any model: no table of tensors is
// needed. One stage, a group a tensor. Errors: as find_packed_linears(); kUnsupported: a tensor that is F16
// or F8_E5M2 where it would have to change; with kTransformers another model, or a tensor that its table does
// not have; kBadInput: a stack that lacks an expert.
Plan make_dequantize_plan(const Checkpoint& source, const DequantizeOptions& options);

}  // namespace nibblecast
