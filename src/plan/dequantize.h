// plan/dequantize.h - the Plan of `nibblecast dequantize`: a checkpoint without quantized weights.
#pragma once

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace nibblecast {

// Every FP8, MXFP4 and NVFP4 weight (plan/packed_linears.h) as `dtype`, kBF16 or kF32, its scales left out;
// with kF32 BF16 tensors of any rank too. Every other tensor stays. Names, shards and order are the source's.
// Of any model: no table of tensors is needed. One stage, a group a tensor. Errors: as find_packed_linears();
// kUnsupported: a tensor that is F16 or F8_E5M2 where it would have to change.
Plan make_dequantize_plan(const Checkpoint& source, Dtype dtype);

}  // namespace nibblecast
