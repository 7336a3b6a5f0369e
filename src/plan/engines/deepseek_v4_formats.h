// plan/engines/deepseek_v4_formats.h - the formats that engines' loaders for DeepSeek-V4 have no way to read.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "plan/engines.h"

namespace nibblecast {

// How the routed experts of one layer are stored.
enum class ExpertsFormat {
  kNvfp4,
  kRelease,     // MXFP4, or FP8 in blocks as in V4-Base
  kWeightOnly,  // NVFP4 of which no projection has an input_scale
  kOther,       // what no engine reads
};

// By main layer. A layer in which any projection looks like NVFP4 is that, so that what lacks is found; so is
// one without weights.
std::map<uint64_t, ExpertsFormat> experts_formats(std::span<const Tensor> tensors);

// One breach an engine and kind of fault, each naming the first module and how many more: modules beside the
// experts that are not stored as the release stores them, experts that are kWeightOnly or kOther.
std::vector<Breach> check_formats(std::span<const Tensor> tensors,
                                  const std::map<uint64_t, ExpertsFormat>& experts);

}  // namespace nibblecast
