// model/families/deepseek_v4/tensors.h - every tensor of a DeepSeek-V4 checkpoint by its official name: shape and how
// it may be stored. One table serves plan (is anything unknown, missing or of the wrong shape?), synth
// (what to make) and the forward pass (what a layer needs).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor.h"
#include "model/deepseek_v4_names.h"
#include "model/families/deepseek_v4/config.h"

namespace nibblecast {

enum class Storage {
  kBF16,
  kF32,
  kI64,
  kFp8Block,  // <name>.weight F8_E4M3 [out, in] + <name>.scale F8_E8M0 or F32 [ceil(out/tile), ceil(in/tile)]
  kExpert,    // routed expert: <name>.weight I8 [out, in/2] + <name>.scale F8_E8M0 [out, in/32] (MXFP4),
              // or kFp8Block (V4-Base)
};

struct ModelTensor {
  std::string name;  // full tensor name; for kFp8Block and kExpert the module, without ".weight"
  Storage storage = Storage::kBF16;
  Shape shape;  // logical: [out, in] for linears
};

// Tensors of `layers.<layer>.`, in a fixed order (attention, norms, hyper-connections, router, shared
// expert; then routed experts ascending, w1 w2 w3 of each).
std::vector<ModelTensor> layer_tensors(const DeepseekV4Config& config, uint64_t layer);
// embed, head, norm, hc_head_*.
std::vector<ModelTensor> global_tensors(const DeepseekV4Config& config);
// Of them, what turns the streams into what head.weight multiplies.
std::vector<std::string> head_tensor_names();
inline constexpr const char* kHeadWeight = "head.weight";
// `mtp.0.` of the April release (not of DSpark/0731 checkpoints, whose mtp.* mean something else).
std::vector<ModelTensor> mtp_tensors(const DeepseekV4Config& config);

// As the V4-Pro and V4-Flash releases store it: one tensor, or a weight and its F8_E8M0 scale (experts
// MXFP4); with expert_dtype "fp8" as their Base releases do (experts kFp8Block, all scales F32). Name, dtype,
// shape and size_bytes are set.
std::vector<Tensor> release_tensors(const DeepseekV4Config& config, const ModelTensor& tensor);

}  // namespace nibblecast
